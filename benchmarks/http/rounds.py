"""One round of measurements: every server once, then the loops without HTTP."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import psutil

from benchmarks.http.answers import differences
from benchmarks.http.load import run_wrk
from benchmarks.http.servers import Running, Server, get, post, running
from benchmarks.http.stages import per_request, read_metrics
from benchmarks.http.targets import ALL, cell
from dimml.machine import SOURCE_ROOT, available_cores

CONNECTIONS = (1, 8, 32)
SUBSET_CONNECTIONS = (8, 32)
BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class Bench:
    """All that a round needs.

    Attributes:
        bundle: its folder.
        data: folder of the table that the samples come from.
        servers: in the order of the report.
        requests: pairs of a body and the answer that it must get; the first has every modality.
        bodies: subset name, or `ALL`, to the folder of its bodies.
        folder: for logs and temporary files.
        seconds: of one measurement.
        warm_up: seconds of load before the first one.
        subset_servers: names of the servers that the other subsets are put to.
        floor_batches: batch sizes of the loops without HTTP, beside 1.
    """

    bundle: Path
    data: Path
    servers: Sequence[Server]
    requests: Sequence[tuple[bytes, Mapping[str, Any]]]
    bodies: Mapping[str, Path]
    folder: Path
    seconds: float
    warm_up: float
    subset_servers: Sequence[str]
    floor_batches: Sequence[int]


class Others:
    """The processor time that other processes of the machine take from now on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = _busy_seconds() - _own_seconds()

    def cores(self, server: float = 0.0) -> float:
        """How many cores they kept busy; `server` is what the one under test used, in seconds."""
        spent = _busy_seconds() - _own_seconds() - self._before - server
        return max(0.0, spent / (time.monotonic() - self._started))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_seconds() -> float:
    """Of this process and of its children that have ended: `wrk`, and the loops without HTTP."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def measure_round(bench: Bench, number: int) -> dict[str, Any]:
    """Every server once, then the floor."""
    busy = psutil.cpu_percent(BUSY_SECONDS)
    say(f"round {number + 1}: the machine is {busy:.0f} % busy before it")
    start = number % len(bench.servers)
    found: dict[str, Any] = {}
    for server in [*bench.servers[start:], *bench.servers[:start]]:
        with running(server, bench.requests[0][0], bench.folder) as started:
            _check(server, started, bench.requests)
            run_wrk(started.url, bench.bodies[ALL], max(CONNECTIONS), bench.warm_up)
            found[server.name] = dict(_cells(bench, server, started))
    floor = [_floor(bench, processes, batch) for processes, batch in _loops(bench.floor_batches)]
    return {
        "busy_percent": busy,
        "order": [server.name for server in bench.servers],
        "servers": found,
        "floor": floor,
    }


def _check(server: Server, started: Running, requests: Sequence[tuple[bytes, Any]]) -> None:
    for body, expected in requests:
        if found := differences(expected, json.loads(post(started.url, body))):
            raise RuntimeError(f"{server.name} gives another answer: {'; '.join(found[:3])}")


def _cells(bench: Bench, server: Server, started: Running) -> Iterator[tuple[str, dict[str, Any]]]:
    for subset, bodies in bench.bodies.items():
        if subset != ALL and server.name not in bench.subset_servers:
            continue
        for connections in CONNECTIONS if subset == ALL else SUBSET_CONNECTIONS:
            key = cell(subset, connections)
            figures = _measure(started, bodies, connections, bench.seconds)
            say(
                f"{server.name}, {key}: {figures['per_second']:.0f} req/s, "
                f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, "
                f"{figures['errors']} errors"
            )
            yield key, figures


def _measure(started: Running, bodies: Path, connections: int, seconds: float) -> dict[str, Any]:
    started.wait_until_idle()
    stages, others = _stages(started), Others()
    cpu = started.cpu_seconds()
    load = run_wrk(started.url, bodies, connections, seconds)
    cpu = started.cpu_seconds() - cpu
    disturbance = others.cores(cpu)
    answered = max(1, load.requests)
    memory = {f"{name}_mib": value for name, value in started.memory_mib().items()}
    return {
        **asdict(load),
        "per_second": load.per_second,
        "errors": load.errors,
        "cpu_ms": 1e3 * cpu / answered,
        # Far below the workers' number, most connections fell to one of them.
        "cores": cpu / load.seconds,
        "disturbance": disturbance,
        "stages": per_request(stages, _stages(started), answered, cpu),
        **memory,
    }


def _stages(started: Running) -> dict[str, float]:
    try:
        return read_metrics(get(started.url.replace("/predict", "/metrics")))
    except (URLError, ValueError):
        # The rivals have no such page.
        return {}


def _loops(batches: Sequence[int]) -> list[tuple[int, int]]:
    return [(1, 1), *((available_cores(), batch) for batch in (1, *batches))]


def _floor(bench: Bench, processes: int, batch: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.http.floor", str(bench.bundle), str(bench.data)]
    options = {"processes": processes, "batch": batch, "seconds": bench.seconds}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    others = Others()
    done = subprocess.run(
        command + words,
        cwd=SOURCE_ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = {**json.loads(done.stdout), "disturbance": others.cores()}
    say(f"floor, {processes} processes, batch {batch}: {found['per_second']:.0f} req/s")
    return found


def say(text: str) -> None:
    """One line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
