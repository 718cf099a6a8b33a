"""Start, watch and stop the servers that are compared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.http.load import CONTENT_TYPE
from benchmarks.measurement import tree_memory_mib
from dimml.machine import SOURCE_ROOT

HOST = "127.0.0.1"
OURS = "dimml"
FASTAPI_ONNX = "FastAPI + onnxruntime, tuned"
FASTAPI_TORCH = "FastAPI + PyTorch, tuned"
POOL_OF_1 = "pool of 1"
START_SECONDS = 180
STOP_SECONDS = 15
IDLE_SECONDS = 30
IDLE_SHARE = 0.1
"""Share of one core below which a server counts as idle."""
IDLE_CHECK_SECONDS = 0.3


@dataclass(frozen=True)
class Server:
    """How to start one of the servers that are compared.

    Attributes:
        name: Name in reports.
        command: Arguments of the Python interpreter, in which `{port}` stands for the port.
        environment: Variables in addition to those of this process.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningServer:
    """A server that answers requests."""

    url: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the processor time of the process tree so far, including ended children."""
        root = self.process.cpu_times()
        total = root.children_user + root.children_system
        for process in self._tree():
            times = process.cpu_times()
            total += times.user + times.system
        return float(total)

    def memory_mib(self) -> dict[str, float]:
        """Return the memory of the tree.

        Returns:
            `pss`, which counts shared pages once, and `peak_rss`, the sum of each process's peak.
        """
        peak = sum(_peak_rss(process.pid) for process in self._tree())
        return {"pss": tree_memory_mib(self.process), "peak_rss": peak / 2**20}

    def workers(self) -> list[psutil.Process]:
        """Return the live worker processes of dimml's service."""
        children = [c for c in self.process.children() if c.status() != psutil.STATUS_ZOMBIE]
        return [child for child in children if "worker" in " ".join(child.cmdline())]

    def wait_until_idle(self) -> None:
        """Wait until workers have loaded and abandoned requests are finished."""
        deadline = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(IDLE_CHECK_SECONDS)
            if self.cpu_seconds() - before < IDLE_CHECK_SECONDS * IDLE_SHARE:
                return

    def _tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def servers(run: Path, bundle: Path, cores: int) -> list[Server]:
    """Return dimml as shipped and its rivals.

    Args:
        run: Folder of the trained run, for the PyTorch rivals.
        bundle: Folder of its bundle.
        cores: Number of workers of the tuned rivals.
    """
    ours = ("-m", "dimml", "serve", str(bundle), "--port", "{port}")
    one_thread = {"RIVAL_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    pool_of_1 = {"RIVAL_CONCURRENCY": "1"}
    onnx = {"RIVAL_BUNDLE": str(bundle), **one_thread}
    torch = {"RIVAL_BUNDLE": str(bundle), "RIVAL_RUN": str(run)}
    tuned_torch = {**torch, **one_thread}
    fastapi = ("-m", "uvicorn", "benchmarks.http.rivals.fastapi_app:app", "--port", "{port}")
    options = ("--workers", str(cores), "--loop", "uvloop", "--http", "httptools")
    tuned_fastapi = (*fastapi, *options, "--no-access-log")
    litserve = ("-m", "benchmarks.http.rivals.litserve_torch", "{port}")
    return [
        Server(OURS, ours),
        Server("FastAPI + PyTorch, default", fastapi, torch),
        Server(FASTAPI_TORCH, tuned_fastapi, tuned_torch),
        Server(f"{FASTAPI_TORCH}, {POOL_OF_1}", tuned_fastapi, tuned_torch | pool_of_1),
        Server("LitServe + PyTorch, default", litserve, torch),
        Server("LitServe + PyTorch, tuned", litserve, tuned_torch | {"RIVAL_WORKERS": str(cores)}),
        Server(FASTAPI_ONNX, tuned_fastapi, onnx),
        Server(f"{FASTAPI_ONNX}, {POOL_OF_1}", tuned_fastapi, onnx | pool_of_1),
    ]


@contextmanager
def running(server: Server, body: bytes, folder: Path) -> Iterator[RunningServer]:
    """Start a server for the block, wait until it is idle, and stop it afterwards.

    Args:
        server: The server to start.
        body: A request that the server must answer to count as started.
        folder: Destination of its log and its temporary files.

    Raises:
        RuntimeError: If it does not answer within `START_SECONDS`.
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
        started = RunningServer(url, psutil.Process(process.pid))
        if not _wait_until_it_answers(process, url, body):
            tail = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{server.name} does not answer; the end of its log is:\n{tail}")
        started.wait_until_idle()
        yield started
    finally:
        _stop(process)


def post(url: str, body: bytes) -> bytes:
    """Return the body of the answer to one request."""
    headers = {"Content-Type": CONTENT_TYPE}
    return httpx.post(url, content=body, headers=headers, timeout=30).raise_for_status().content


def get(url: str) -> str:
    """Return the text that a server answers at a URL."""
    return httpx.get(url, timeout=30).raise_for_status().text


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
        except httpx.HTTPError:
            time.sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server and every process that it has started."""
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
