"""One real request per subset of modalities, against a service that is started and stopped."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from dimml.bundle import Bundle
from dimml.errors import DimmlError
from dimml.progress import print_status
from dimml.samples import subsets
from serving.cli import example_sample

START_SECONDS = 60


def main(path: Path) -> None:
    """Serves a bundle on a free port and asks it what each subset of one sample says."""
    bundle = Bundle.load(path)
    sample = example_sample(bundle)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dimml", "serve", str(path), "--port", str(port)]
    quiet = subprocess.DEVNULL
    service = subprocess.Popen([*command, "--workers", "1"], stdout=quiet, stderr=quiet)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_SECONDS) as client:
            _wait(client, service)
            for subset in subsets(list(sample)):
                _ask(client, {name: sample[name] for name in subset})
    finally:
        service.terminate()
        service.wait()


def _wait(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while service.poll() is None and time.monotonic() < deadline:
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise DimmlError("the service did not start; `dimml serve` says why")


def _ask(client: httpx.Client, sample: dict[str, Any]) -> None:
    # A tuple without a file name is a plain field.
    files = {
        name: (value.name, value.read_bytes()) if isinstance(value, Path) else (None, value)
        for name, value in sample.items()
    }
    answer = client.post("/predict", files=files).raise_for_status().json()
    said = ", ".join(
        f"{name} says {output['label']} ({output['confidence']:.0%}, weight {output['weight']:.2f})"
        for name, output in answer["modalities"].items()
        if output["present"]
    )
    print_status(f"{'+'.join(sample)}: {answer['label']} ({answer['confidence']:.1%}); {said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
