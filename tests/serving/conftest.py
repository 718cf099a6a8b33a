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


def free_port() -> int:
    """One below those that the system gives to clients, who would take it before it is bound."""
    while True:
        port = random.SystemRandom().randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """`bentoml serve` in a process of its own."""

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
                "DIMML_WORKERS": "2",
                **{f"DIMML_{name.upper()}": str(value) for name, value in settings.items()},
            },
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        children = psutil.Process(self.process.pid).children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if "worker" in " ".join(child.cmdline())]

    def wait(self) -> None:
        """Returns when the service is ready."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError(f"not ready: {self.log()}")

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def stop(self) -> int:
        self.client.close()
        self.process.terminate()
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()


@pytest.fixture(scope="session")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs a service in processes of its own, for as long as a block lasts."""

    @contextmanager
    def opened(bundle: Path, **settings: object) -> Iterator[Server]:
        server = Server(bundle, tmp_path_factory.mktemp("server"), **settings)
        try:
            yield server
        finally:
            server.stop()

    return opened


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python programs from a folder of no importance, and stops them after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=30)


Answer = tuple[int, str | None]


@pytest.fixture(scope="session")
def documented() -> Callable[[str], dict[str, Answer]]:
    """What docs/inputs.md says under a heading: the input to its status and error code."""

    def read(heading: str) -> dict[str, Answer]:
        _, _, rest = (SOURCE_ROOT / "docs/inputs.md").read_text().partition(f"\n## {heading}\n")
        rows = re.findall(r"^\| (.+?) \| (\d{3})(?: `(\w+)`)? \|", rest.partition("\n## ")[0], re.M)
        return {name: (int(status), code or None) for name, status, code in rows}

    return read
