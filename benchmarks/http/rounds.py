"""Measure one round: every server once, then the loops without HTTP."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.http.answers import differences
from benchmarks.http.floor import measure_loops
from benchmarks.http.load import run_wrk
from benchmarks.http.servers import RunningServer, Server, get, post, running
from benchmarks.http.stages import per_request, read_metrics
from benchmarks.http.targets import ALL, cell
from dimml.machine import available_cores
from dimml.progress import print_status

SUBSET_CONNECTIONS = (8, 32)
BUSY_CHECK_SECONDS = 2.0


@dataclass(frozen=True)
class RoundSettings:
    """The settings of a round.

    Attributes:
        bundle: Folder of the bundle.
        samples: Samples with every modality, for the loops without HTTP.
        servers: Servers in the order of the report.
        requests: Bodies with their expected answers. The first has every modality.
        connections: Numbers of connections with requests of all modalities.
        bodies: Folder of the bodies of each subset name, or of `ALL`.
        folder: Folder for logs and temporary files.
        seconds: Duration of one measurement.
        warm_up: Seconds of load before the first measurement of a server.
        subset_servers: Names of the servers that are also measured on smaller subsets.
        floor_batches: Batch sizes of the loops without HTTP, in addition to 1.
    """

    bundle: Path
    samples: Sequence[Mapping[str, Any]]
    servers: Sequence[Server]
    requests: Sequence[tuple[bytes, Mapping[str, Any]]]
    connections: Sequence[int]
    bodies: Mapping[str, Path]
    folder: Path
    seconds: float
    warm_up: float
    subset_servers: Sequence[str]
    floor_batches: Sequence[int]


class OtherProcesses:
    """The processor time that unrelated processes use from now on."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._before = _busy_seconds() - _own_seconds()

    def cores(self, server_seconds: float = 0.0) -> float:
        """Return the mean number of busy cores, without `server_seconds` of the measured server."""
        spent = _busy_seconds() - _own_seconds() - self._before - server_seconds
        return max(0.0, spent / (time.monotonic() - self._started))


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _own_seconds() -> float:
    """Return the time of this process and its ended children: `wrk` and the loops without HTTP."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, who))


def measure_round(settings: RoundSettings, number: int) -> dict[str, Any]:
    """Measure every server once, then the loops."""
    busy = psutil.cpu_percent(BUSY_CHECK_SECONDS)
    print_status(f"round {number + 1}: the machine is {busy:.0f} % busy before the start")
    start = number % len(settings.servers)
    figures: dict[str, Any] = {}
    for server in [*settings.servers[start:], *settings.servers[:start]]:
        with running(server, settings.requests[0][0], settings.folder) as started:
            _check(server, started, settings.requests)
            run_wrk(started.url, settings.bodies[ALL], max(settings.connections), settings.warm_up)
            figures[server.name] = dict(_measure_cells(settings, server, started))
    cores = available_cores()
    loops = [(1, 1), *((cores, batch) for batch in (1, *settings.floor_batches))]
    return {
        "busy_percent": busy,
        "order": [server.name for server in settings.servers],
        "servers": figures,
        "floor": [_measure_loops(settings, *loop) for loop in loops],
    }


def _check(server: Server, started: RunningServer, requests: Sequence[tuple[bytes, Any]]) -> None:
    for body, expected in requests:
        if different := differences(expected, json.loads(post(started.url, body))):
            raise RuntimeError(
                f"{server.name} does not answer as dimml.Predictor does: {'; '.join(different[:3])}"
            )


def _measure_cells(
    settings: RoundSettings, server: Server, started: RunningServer
) -> Iterator[tuple[str, dict[str, Any]]]:
    for subset, bodies in settings.bodies.items():
        if subset != ALL and server.name not in settings.subset_servers:
            continue
        for connections in settings.connections if subset == ALL else SUBSET_CONNECTIONS:
            key = cell(subset, connections)
            figures = _measure(started, bodies, connections, settings.seconds)
            print_status(
                f"{server.name}, {key}: {figures['per_second']:.0f} req/s, "
                f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, "
                f"{figures['errors']} errors"
            )
            yield key, figures


def _measure(
    started: RunningServer, bodies: Path, connections: int, seconds: float
) -> dict[str, Any]:
    started.wait_until_idle()
    stages, others = _stages(started), OtherProcesses()
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
        # A value far below the number of workers means that one worker got most connections.
        "cores": cpu / load.seconds,
        "disturbance": disturbance,
        "stages": per_request(stages, _stages(started), answered, cpu),
        **memory,
    }


def _stages(started: RunningServer) -> dict[str, float]:
    try:
        return read_metrics(get(started.url.replace("/predict", "/metrics")))
    except (httpx.HTTPError, ValueError):
        # The rivals have no page of metrics.
        return {}


def _measure_loops(settings: RoundSettings, processes: int, batch: int) -> dict[str, Any]:
    others = OtherProcesses()
    figures = measure_loops(settings.bundle, settings.samples, processes, batch, settings.seconds)
    print_status(f"floor, {processes} processes, batch {batch}: {figures['per_second']:.0f} req/s")
    return {**figures, "disturbance": others.cores()}
