from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from dimml.machine import SOURCE_ROOT

ExpectedResponse = tuple[int, str | None]
"""A status and the code of its error."""


def free_port() -> int:
    """Return a free port below those that the system gives to clients.

    A client could take a port of that range before the server binds it.
    """
    while True:
        port = random.SystemRandom().randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """`bentoml serve` in a process of its own.

    Attributes:
        client: A client of the server.
        process: The process that starts the workers.
        temporary: The folder for temporary files of the server.
    """

    def __init__(self, bundle: Path, home: Path, **settings: object) -> None:
        port = free_port()
        self.temporary = home / "temporary"
        self.temporary.mkdir()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self._log = (home / "log").open("w+b")
        command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Dimml"]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=SOURCE_ROOT,
            env={
                **os.environ,
                "BENTOML_HOME": str(home),
                "TMPDIR": str(self.temporary),
                "DIMML_BUNDLE": str(bundle),
                "DIMML_PROVIDERS": "cpu",
                "DIMML_UI": "0",
                "DIMML_WORKERS": "2",
                **{f"DIMML_{name.upper()}": str(value) for name, value in settings.items()},
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer requests."""
        children = psutil.Process(self.process.pid).children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if "worker" in " ".join(child.cmdline())]

    def wait_until_ready(self) -> None:
        """Return when the service is ready; fail after a minute or if the process ends."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"the server is not ready: {self.log()}")

    def log(self) -> str:
        """Return the standard output and error of the server so far."""
        self._log.seek(0)
        return self._log.read().decode()

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit code."""
        self.client.close()
        self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a context manager that runs a service in other processes for its block."""

    @contextmanager
    def opened(bundle: Path, **settings: object) -> Iterator[Server]:
        server = Server(bundle, tmp_path_factory.mktemp("server"), **settings)
        try:
            yield server
        finally:
            server.stop()

    return opened


@pytest.fixture
def start_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs Python in a temporary folder until the test ends."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(scope="session")
def documented_responses() -> Callable[[str], dict[str, ExpectedResponse]]:
    """Return a function that reads the table below a heading of docs/inputs.md.

    Each key is a name of an input, each value the response that the table states for it.
    """

    def read(heading: str) -> dict[str, ExpectedResponse]:
        _, _, rest = (SOURCE_ROOT / "docs/inputs.md").read_text().partition(f"\n## {heading}\n")
        rows = re.findall(r"^\| (.+?) \| (\d{3})(?: `(\w+)`)? \|", rest.partition("\n## ")[0], re.M)
        return {name: (int(status), code or None) for name, status, code in rows}

    return read


@pytest.fixture
def restored_environment() -> Iterator[None]:
    """Restore the environment, in which `serve` sets variables for its workers."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
