"""Measure the time from nothing to a prediction and the web page: clone, `make serve`, requests.

Run `python -m benchmarks.first_prediction` on an otherwise idle machine, with all changes
committed; writes `benchmarks/results/first_prediction.json`. The caches of pip and uv are empty, as
on a new machine, so every package is downloaded; `--warm` uses the caches of this user instead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from dimml.errors import DimmlError
from dimml.machine import SOURCE_ROOT

SAMPLE = b"text=NUN"
POLL_SECONDS = 0.1
START_SECONDS = 120
STOP_SECONDS = 30
COMMAND = re.compile(r"\.venv/bin/dimml (data|train|export|evaluate|serve)\b")
"""The part of a line of `make` that names the command which starts."""


class Stages:
    """The time of each stage of `make serve`.

    Args:
        make: The process of `make`.

    Attributes:
        name: The present stage.
        seconds: Stage to seconds.
        cpu_seconds: Stage to processor seconds of all cores. `make` knows those of ended commands,
            so the service has none.
    """

    def __init__(self, make: psutil.Process) -> None:
        self.name = "install"
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._make = make
        self._start, self._cpu_start = time.monotonic(), 0.0

    def begin(self, name: str) -> None:
        """End the present stage and begin another."""
        times = self._make.cpu_times()
        now, cpu = time.monotonic(), times.children_user + times.children_system
        self.seconds[self.name] = round(now - self._start, 1)
        self.cpu_seconds[self.name] = round(cpu - self._cpu_start, 1)
        self.name, self._start, self._cpu_start = name, now, cpu

    def end(self, name: str) -> None:
        """End a stage of the service, `ready` or `page`."""
        now = time.monotonic()
        self.seconds[name] = round(now - self._start, 1)
        self._start = now


def main() -> None:
    """Clone the committed state of this checkout, serve from the clone, and write the result."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--warm", action="store_true", help="use the caches of pip and uv")
    warm = parser.parse_args().warm
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        caches = {f"{tool}_CACHE_DIR": str(folder / tool) for tool in ("PIP", "UV")}
        subprocess.run(["git", "clone", "--quiet", SOURCE_ROOT, folder / "dimml"], check=True)
        stages = measure(folder / "dimml", {**os.environ, **({} if warm else caches)})
    figures = {
        "caches": "warm" if warm else "empty",
        "load_before": load,
        "total_seconds": round(sum(stages.seconds.values()), 1),
        "seconds": stages.seconds,
        "cpu_seconds": stages.cpu_seconds,
    }
    write_result("first_prediction", figures)
    sys.stdout.write(f"{json.dumps(figures)}\n")


def measure(clone: Path, environment: Mapping[str, str]) -> Stages:
    """Run `make serve` in a clone until the service answers, then stop it.

    Raises:
        DimmlError: If `make` fails, or the service does not answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    make = subprocess.Popen(
        ["make", "serve", f"PORT={port}"],
        cwd=clone,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert make.stdout is not None
    try:
        stages = Stages(psutil.Process(make.pid))
        for line in make.stdout:
            sys.stdout.write(line)
            if command := COMMAND.search(line):
                stages.begin(command[1])
            if stages.name == "serve":
                wait_for_prediction(make, f"http://127.0.0.1:{port}/predict")
                stages.end("ready")
                open_page(f"http://127.0.0.1:{port}/")
                stages.end("page")
                return stages
        raise DimmlError(f"make failed in the stage {stages.name}; its output is above")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(make.pid, signal.SIGTERM)
        make.wait(STOP_SECONDS)


def wait_for_prediction(make: subprocess.Popen[str], url: str) -> None:
    """Send a sample again and again until the service answers it.

    Raises:
        DimmlError: If the service ends, or does not answer within `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while make.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, SAMPLE, timeout=START_SECONDS) as answer:
                sys.stdout.write(f"{answer.read().decode()}\n")
                return
        except urllib.error.HTTPError as error:
            raise DimmlError(f"{url} answers {error.code}: {error.read().decode()}") from error
        except OSError:
            time.sleep(POLL_SECONDS)
    raise DimmlError(f"the service ended, or did not answer within {START_SECONDS} s")


def open_page(url: str) -> None:
    """Request the web page as a browser does.

    Raises:
        DimmlError: If the service has no page.
    """
    request = urllib.request.Request(url, headers={"Accept": "text/html"})
    with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:
        if answer.headers.get_content_type() != "text/html":
            raise DimmlError(f"{url} answers {answer.headers.get_content_type()}, not a page")


if __name__ == "__main__":
    main()
