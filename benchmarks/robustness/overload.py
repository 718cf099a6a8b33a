"""Measure the service at its capacity, at a multiple of that rate, and in a flood of requests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.http.load import run_wrk
from benchmarks.http.servers import RunningServer, get
from benchmarks.measurement import memory_samples
from benchmarks.robustness.probe import Probe
from dimml.errors import UsageError

CAPACITY_CONNECTIONS = 16
"""Connections per worker that measure the capacity; each sends its next request at once."""
OVERLOAD_CONNECTIONS = 320
"""Connections of the overload, which pause between requests to reach `OVERLOAD_FACTOR`."""
FLOOD_CONNECTIONS = 160
"""Connections of the flood; each sends its next request at once, whatever the answer."""
OVERLOAD_FACTOR = 5
"""Request rate of the overload as a multiple of the capacity."""
PAUSE_TRIALS = 3
MEMORY_INTERVAL_SECONDS = 0.5


@contextmanager
def separate_cores() -> Iterator[Callable[[], None]]:
    """Give half of the cores to processes started in the block.

    Yields:
        A function that moves this process to the other half, called when the server has started.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise UsageError("the service and its clients need a core each, but there is only one")
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[:half])
    try:
        yield lambda: os.sched_setaffinity(0, cores[half:])
    finally:
        os.sched_setaffinity(0, cores)


@dataclass(frozen=True)
class OverloadTest:
    """Measures one server.

    Attributes:
        server: The running server.
        bodies: Folder of the bodies that `wrk` posts.
        body: A body for the probe.
        seconds: Duration of each phase.
    """

    server: RunningServer
    bodies: Path
    body: bytes
    seconds: float

    def run(self) -> dict[str, Any]:
        """Measure the capacity, the overload and the flood, and the throughput after each."""
        connections = CAPACITY_CONNECTIONS * len(self.server.workers())
        capacity = self._phase(connections)
        pause_ms = self._overload_pause_ms(capacity)
        phases = {
            "overload": (OVERLOAD_CONNECTIONS, pause_ms),
            "flood": (FLOOD_CONNECTIONS, 0.0),
        }
        report: dict[str, Any] = {"capacity": capacity}
        for name, phase in phases.items():
            figures = self._phase(*phase)
            after = [round(self._accepted_rate(connections, 1)) for _ in range(5)]
            report[name] = {
                **figures,
                **_relative(figures, capacity),
                "accepted_after_per_second": after,
            }
        return report

    def _overload_pause_ms(self, capacity: dict[str, Any]) -> float:
        """Find the pause by trial, because the latency of an answer adds to it."""
        target = 1000 * OVERLOAD_CONNECTIONS / (OVERLOAD_FACTOR * capacity["accepted_per_second"])
        pause = target
        for _ in range(PAUSE_TRIALS):
            load = run_wrk(self.server.url, self.bodies, OVERLOAD_CONNECTIONS, 2, max(1.0, pause))
            pause -= 1000 * OVERLOAD_CONNECTIONS * load.seconds / load.requests - target
        return max(1.0, pause)

    def _phase(self, connections: int, pause_ms: float = 0) -> dict[str, Any]:
        probe = Probe(self.server.url, self.body)
        accepted = self._accepted()
        with (
            probe.active(),
            memory_samples(self.server.process, MEMORY_INTERVAL_SECONDS) as memory,
        ):
            load = run_wrk(self.server.url, self.bodies, connections, self.seconds, pause_ms)
        return {
            "workers": len(self.server.workers()),
            "connections": connections,
            "accepted_per_second": round((self._accepted() - accepted) / load.seconds),
            "refused_per_second": round(load.not_2xx / load.seconds),
            "accepted_p50_ms": probe.percentile(200, 0.5),
            "accepted_p99_ms": probe.percentile(200, 0.99),
            "refused_p50_ms": probe.percentile(503, 0.5),
            "refused_p99_ms": probe.percentile(503, 0.99),
            "probe_answers": probe.counts(),
            "socket_errors": load.socket_errors,
            "peak_pss_mib": round(max(memory)),
        }

    def _accepted_rate(self, connections: int, seconds: float) -> float:
        load = run_wrk(self.server.url, self.bodies, connections, seconds)
        return float((load.requests - load.not_2xx) / load.seconds)

    def _accepted(self) -> float:
        """Return the number of accepted requests so far, by the service's own metrics."""
        lines = get(self.server.url.replace("/predict", "/metrics")).splitlines()
        metric = 'dimml_requests_total{status="200"}'
        return sum((float(n.split()[-1]) for n in lines if n.startswith(metric)), 0.0)


def _relative(figures: dict[str, Any], capacity: dict[str, Any]) -> dict[str, float]:
    rate = figures["accepted_per_second"] + figures["refused_per_second"]
    return {
        "times_capacity": round(rate / capacity["accepted_per_second"], 2),
        "p99_ratio": round(figures["accepted_p99_ms"] / capacity["accepted_p99_ms"], 2),
    }
