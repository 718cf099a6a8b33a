"""The service under overload, with a worker killed, and for a long time with good and bad requests.

Run as `python -m benchmarks.robustness.reliability [--seconds 10] [--soak-minutes 15]`; writes
`benchmarks/results/reliability.json`. Needs `wrk` and the bundle and data of `make demo`.

Overload is measured twice. *Apart*, the service has one half of the cores and its clients the
other, as they would on two machines. *Shared*, both have all of them, so that clients that ask more
also take more of the processor from the service.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.http.load import CONTENT_TYPE, multipart, read_samples, run_wrk, write_bodies
from benchmarks.http.servers import OURS, Running, Server, get, running
from benchmarks.robustness.hostile import requests as hostile_requests
from dimml.bundle import Bundle
from dimml.machine import describe_machine

RESULT = Path(__file__).parents[1] / "results" / "reliability.json"
CAPACITY, OVERLOAD, FLOOD = 16, 320, 160
"""Connections: so many for each worker, that ask again as soon as they are answered, give the
capacity; those of an overload pause, so that together they ask `TIMES` that; those of a flood ask
again at once, whatever the answer."""
TIMES = 5
PAUSE_TRIALS = 3
PROBES = 4


class Probe:
    """Clients that ask one thing at a time, and note each answer's status and latency.

    Attributes:
        seconds: status to latencies; "error" where a connection failed.
    """

    def __init__(self, url: str, body: bytes) -> None:
        self.seconds: dict[int | str, list[float]] = {}
        self._address = urlsplit(url)
        self._body = body
        self._stop = threading.Event()

    def percentile(self, status: int, share: float) -> float | None:
        """Milliseconds within which a share of the answers of a status came."""
        found = sorted(self.seconds.get(status, []))
        return round(1000 * found[int(share * (len(found) - 1))], 1) if found else None

    def counts(self) -> dict[str, int]:
        """How many answers there were of each status."""
        return {str(status): len(found) for status, found in self.seconds.items()}

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Asks for as long as the block lasts."""
        threads = [threading.Thread(target=self._ask) for _ in range(PROBES)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(str(self._address.netloc), timeout=30)
        while not self._stop.is_set():
            started = time.perf_counter()
            status: int | str
            try:
                headers = {"Content-Type": CONTENT_TYPE}
                connection.request("POST", "/predict", self._body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = "error"
            self.seconds.setdefault(status, []).append(time.perf_counter() - started)
            # A client that was refused waits a little, if not the whole of Retry-After.
            time.sleep(0.02 if status == 503 else 0.0)


def overload(server: Running, bodies: Path, body: bytes, seconds: float) -> dict[str, Any]:
    """Capacity, requests at five times its rate, a flood, and what comes after."""
    usual = CAPACITY * len(_workers(server))
    capacity = _phase(server, bodies, body, seconds, usual)
    report: dict[str, Any] = {"capacity": capacity}
    for phase, connections in (("overload", OVERLOAD), ("flood", FLOOD)):
        pause_ms = _pause_ms(server, bodies, capacity) if phase == "overload" else 0.0
        found = _phase(server, bodies, body, seconds, connections, pause_ms)
        after = [round(_accepted_in(server, bodies, usual, 1)) for _ in range(5)]
        report[phase] = {**_relative(found, capacity), "accepted_after_per_second": after}
    return report


@contextmanager
def _apart() -> Iterator[Callable[[], None]]:
    """What is started in the block has half of the cores; what is called in it takes the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("apart from its clients the service needs a second core")
    half = len(cores) // 2
    os.sched_setaffinity(0, cores[:half])
    try:
        yield lambda: os.sched_setaffinity(0, cores[half:])
    finally:
        os.sched_setaffinity(0, cores)


def _pause_ms(server: Running, bodies: Path, capacity: dict[str, Any]) -> float:
    """How long each connection is to pause, found by trying: what an answer takes is not known."""
    wanted = 1000 * OVERLOAD / (TIMES * capacity["accepted_per_second"])
    pause = wanted
    for _ in range(PAUSE_TRIALS):
        load = run_wrk(server.url, bodies, OVERLOAD, 2, max(1.0, pause))
        pause -= 1000 * OVERLOAD * load.seconds / load.requests - wanted
    return max(1.0, pause)


def _relative(found: dict[str, Any], capacity: dict[str, Any]) -> dict[str, Any]:
    asked = found["accepted_per_second"] + found["refused_per_second"]
    return {
        **found,
        "times_capacity": round(asked / capacity["accepted_per_second"], 2),
        "p99_ratio": round(found["accepted_p99_ms"] / capacity["accepted_p99_ms"], 2),
    }


def _phase(
    server: Running,
    bodies: Path,
    body: bytes,
    seconds: float,
    connections: int,
    pause_ms: float = 0,
) -> dict[str, Any]:
    probe = Probe(server.url, body)
    accepted = _accepted(server)
    with probe.asking(), _memory(server) as memory:
        load = run_wrk(server.url, bodies, connections, seconds, pause_ms)
    return {
        "workers": len(_workers(server)),
        "connections": connections,
        "accepted_per_second": round((_accepted(server) - accepted) / load.seconds),
        "refused_per_second": round(load.not_2xx / load.seconds),
        "accepted_p50_ms": probe.percentile(200, 0.5),
        "accepted_p99_ms": probe.percentile(200, 0.99),
        "refused_p50_ms": probe.percentile(503, 0.5),
        "refused_p99_ms": probe.percentile(503, 0.99),
        "probe_answers": probe.counts(),
        "socket_errors": load.socket_errors,
        "peak_pss_mib": round(max(memory)),
    }


def _accepted_in(server: Running, bodies: Path, connections: int, seconds: float) -> float:
    load = run_wrk(server.url, bodies, connections, seconds)
    return (load.requests - load.not_2xx) / load.seconds


def kill(server: Running, body: bytes) -> dict[str, Any]:
    """One worker ends by SIGKILL while clients ask."""
    probe = Probe(server.url, body)
    with probe.asking():
        time.sleep(2)
        before = {worker.pid for worker in _workers(server)}
        _workers(server)[0].send_signal(signal.SIGKILL)
        started = time.monotonic()
        while len({w.pid for w in _workers(server)} - before) < 1:
            time.sleep(0.1)
        replaced = time.monotonic() - started
        time.sleep(3)
    return {
        "probe_answers": probe.counts(),
        "in_flight_at_most": PROBES,
        "replaced_after_s": round(replaced, 1),
    }


def soak(
    server: Running, bodies: Path, samples: Sequence[bytes], folder: Path, minutes: float
) -> dict[str, Any]:
    """Good and bad requests for minutes, with memory, descriptors and files watched."""
    stop = threading.Event()
    counts: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_mix, args=(server.url, samples, number, counts, stop))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    history = []
    started = time.monotonic()
    while (passed := time.monotonic() - started) < 60 * minutes:
        run_wrk(server.url, bodies, 4, 5)
        history.append({"minute": round(passed / 60, 2), **_footprint(server, folder)})
    stop.set()
    for thread in threads:
        thread.join()
    settled = [row for row in history if row["minute"] >= min(2, minutes / 2)]
    return {
        "minutes": minutes,
        "mixed_answers": dict(counts),
        "growth_after_2_minutes": {
            key: round(settled[-1][key] - settled[0][key], 1) for key in ("pss_mib", "descriptors")
        },
        "files_left": settled[-1]["temporary_files"] - history[0]["temporary_files"],
        "history": history[:: max(1, len(history) // 30)],
    }


def _mix(
    url: str, samples: Sequence[bytes], seed: int, counts: Counter[str], stop: threading.Event
) -> None:
    chosen = random.Random(seed)
    address = urlsplit(url).netloc
    while not stop.is_set():
        path, headers, body = chosen.choice(hostile_requests(samples, chosen))
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("POST", path, body, headers)
            if chosen.random() < 0.1:
                counts["left"] += 1
                continue
            counts[str(connection.getresponse().status)] += 1
        except (OSError, http.client.HTTPException) as error:
            counts[type(error).__name__] += 1
        finally:
            connection.close()


def _footprint(server: Running, folder: Path) -> dict[str, float]:
    return {
        "pss_mib": round(server.memory_mib()["pss"], 1),
        "descriptors": sum(worker.num_fds() for worker in _workers(server)),
        "temporary_files": sum(1 for _ in folder.rglob("*")),
    }


def _workers(server: Running) -> list[psutil.Process]:
    found = [c for c in server.process.children() if c.status() != psutil.STATUS_ZOMBIE]
    return [child for child in found if "worker" in " ".join(child.cmdline())]


def _accepted(server: Running) -> float:
    lines = get(server.url.replace("/predict", "/metrics")).splitlines()
    wanted = 'dimml_requests_total{status="200"}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(wanted))


@contextmanager
def _memory(server: Running) -> Iterator[list[float]]:
    """Samples the memory of a server for as long as the block lasts."""
    found: list[float] = [server.memory_mib()["pss"]]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            found.append(server.memory_mib()["pss"])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/bundle"))
    parser.add_argument("--data", type=Path, default=Path("runs/digits/data"))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--soak-minutes", type=float, default=15.0)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    samples = read_samples(bundle, options.data)
    whole = [multipart(sample, kinds) for sample in samples]
    command = ("-m", "dimml", "serve", str(options.bundle.absolute()), "--port", "{port}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bodies(folder / "bodies", samples, list(kinds), kinds)
        inside = folder / "temporary"
        inside.mkdir()
        rounds = []
        for _ in range(options.repeats):
            with (
                _apart() as take_the_others,
                running(Server(OURS, command), whole[0], inside) as server,
            ):
                take_the_others()
                apart = overload(server, folder / "bodies", whole[0], options.seconds)
            with running(Server(OURS, command), whole[0], inside) as server:
                shared = overload(server, folder / "bodies", whole[0], options.seconds)
            rounds.append({"apart": apart, "shared": shared})
        with running(Server(OURS, command), whole[0], inside) as server:
            killed = kill(server, whole[0])
            soaked = soak(server, folder / "bodies", whole, inside, options.soak_minutes)
    report = {
        "machine": describe_machine(),
        "bundle": bundle.id,
        "p99_ratio": {
            cores: {
                phase: statistics.median(r[cores][phase]["p99_ratio"] for r in rounds)
                for phase in ("overload", "flood")
            }
            for cores in ("apart", "shared")
        },
        "overload": rounds,
        "kill": killed,
        "soak": soaked,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps({**report, "soak": {**soaked, "history": "..."}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
