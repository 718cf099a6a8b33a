"""Starts, watches and ends the servers that are compared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.http.load import CONTENT_TYPE
from dimml.machine import SOURCE_ROOT

HOST = "127.0.0.1"
OURS = "dimml"
FASTAPI_ONNX = "FastAPI + onnxruntime, tuned"
START_SECONDS = 180
STOP_SECONDS = 15
IDLE_SECONDS = 30
IDLE_SHARE = 0.1
"""Of one core: a server that uses less than this has finished starting."""


@dataclass(frozen=True)
class Server:
    """One of the servers that are compared.

    Attributes:
        name: how reports call it.
        command: arguments of the Python interpreter; `{port}` stands for the port.
        environment: what it needs beside ours.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Processor time of the whole process tree so far, ended children included."""
        root = self.process.cpu_times()
        total = root.children_user + root.children_system
        for process in self._tree():
            times = process.cpu_times()
            total += times.user + times.system
        return float(total)

    def memory_mib(self) -> dict[str, float]:
        """Memory of the tree: `pss` counts shared pages once, `peak_rss` each process's peak."""
        pss = peak = 0
        for process in self._tree():
            pss += process.memory_full_info().pss
            peak += _peak_rss(process.pid)
        return {"pss": pss / 2**20, "peak_rss": peak / 2**20}

    def wait_until_idle(self) -> None:
        """Waits for workers that are still loading and for answers that nobody waits for."""
        deadline = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.3)
            if self.cpu_seconds() - before < 0.3 * IDLE_SHARE:
                return

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def servers(run: Path, bundle: Path, cores: int, lean: Mapping[str, str]) -> list[Server]:
    """Ours, as shipped, and the rivals; `lean` adds ours with these settings."""
    ours = ("-m", "dimml", "serve", str(bundle), "--port", "{port}")
    model = {"RIVAL_RUN": str(run), "RIVAL_BUNDLE": str(bundle)}
    one_thread = {"RIVAL_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    tuned = ("--workers", str(cores), "--loop", "uvloop", "--http", "httptools", "--no-access-log")
    litserve = ("-m", "benchmarks.http.rivals.litserve_torch", "{port}")
    tuned_model, in_turn = {**model, **one_thread}, {"RIVAL_CONCURRENCY": "1"}
    fastapi_torch, fastapi_onnx = (
        _uvicorn("fastapi_torch", *tuned),
        _uvicorn("fastapi_onnx", *tuned),
    )
    return [
        Server(OURS, ours),
        *([Server(f"{OURS} lean", ours, lean)] if lean else []),
        Server("FastAPI + PyTorch, default", _uvicorn("fastapi_torch"), model),
        Server("FastAPI + PyTorch, tuned", fastapi_torch, tuned_model),
        Server("FastAPI + PyTorch, tuned, pool of 1", fastapi_torch, {**tuned_model, **in_turn}),
        Server("LitServe + PyTorch, default", litserve, model),
        Server("LitServe + PyTorch, tuned", litserve, {**tuned_model, "RIVAL_WORKERS": str(cores)}),
        Server(FASTAPI_ONNX, fastapi_onnx, tuned_model),
        Server(f"{FASTAPI_ONNX}, pool of 1", fastapi_onnx, {**tuned_model, **in_turn}),
    ]


def _uvicorn(rival: str, *options: str) -> tuple[str, ...]:
    return ("-m", "uvicorn", f"benchmarks.http.rivals.{rival}:app", "--port", "{port}", *options)


@contextmanager
def running(server: Server, body: bytes, folder: Path) -> Iterator[Running]:
    """A server that has started, answers `body` and is idle; ended whatever happens.

    Args:
        server: which.
        body: a request that it has to answer.
        folder: takes its output, and its temporary files.

    Raises:
        RuntimeError: it does not start.
    """
    port = _free_port()
    url = f"http://{HOST}:{port}/predict"
    log = folder / f"{server.name}.log"
    command = [sys.executable, *(word.replace("{port}", str(port)) for word in server.command)]
    environment = {**os.environ, **server.environment, "TMPDIR": str(folder)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=SOURCE_ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        started = Running(url, psutil.Process(process.pid))
        if not _wait_until_it_answers(process, url, body):
            tail = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{server.name} does not answer; the end of its output:\n{tail}")
        started.wait_until_idle()
        yield started
    finally:
        _end(process)


def post(url: str, body: bytes, timeout: float = 30) -> bytes:
    """The body of the answer to one request."""
    request = urllib.request.Request(url, body, {"Content-Type": CONTENT_TYPE})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        content: bytes = answer.read()
    return content


def get(url: str) -> str:
    """The text at an address of a server."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
    return content.decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(process: subprocess.Popen[bytes], url: str, body: bytes) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            post(url, body)
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and every process that it started."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(tree, timeout=2)
    for child in alive:
        child.kill()
    psutil.wait_procs(alive, timeout=5)


def _peak_rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
