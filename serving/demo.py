"""The demo: one request for each subset of modalities, against a temporary service."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from dimml.bundle import Bundle
from dimml.errors import DimmlError
from dimml.progress import print_status
from dimml.samples import subsets
from serving.cli import example_sample

START_SECONDS = 60


def main(bundle_path: Path) -> None:
    """Serve a bundle on a free port and print its prediction for each subset of one sample."""
    sample = example_sample(Bundle.load(bundle_path))
    with served(bundle_path) as client:
        for subset in subsets(list(sample)):
            _print_prediction(client, {name: sample[name] for name in subset})


@contextlib.contextmanager
def served(bundle: Path, *options: str) -> Iterator[httpx.Client]:
    """Serve a bundle on a free port for the block, and return a client of the service."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dimml", "serve", str(bundle), "--port", str(port)]
    command += ["--workers", "1", *options]
    quiet = subprocess.DEVNULL
    service = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=START_SECONDS) as client:
            _wait_until_ready(client, service)
            yield client
    finally:
        service.terminate()
        service.wait()


def _wait_until_ready(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while service.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/readyz").is_success:
                return
        time.sleep(0.1)
    raise DimmlError(
        f"the service stopped or was not ready within {START_SECONDS} s; "
        "run `dimml serve` with the same bundle to see the reason"
    )


def _print_prediction(client: httpx.Client, sample: dict[str, Any]) -> None:
    # httpx sends a tuple without a file name as a plain form field.
    files = {
        name: (value.name, value.read_bytes()) if isinstance(value, Path) else (None, value)
        for name, value in sample.items()
    }
    prediction = client.post("/predict", files=files).raise_for_status().json()
    outputs = ", ".join(
        f"{name} {output['label']} ({output['confidence']:.0%}, weight {output['weight']:.2f})"
        for name, output in prediction["modalities"].items()
        if output["present"]
    )
    label, confidence = prediction["label"], prediction["confidence"]
    print_status(f"{'+'.join(sample)}: {label} ({confidence:.1%}); {outputs}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
