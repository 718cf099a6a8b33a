"""Measure the service under overload, when a worker is killed, and in a long mixed run.

Run `python -m benchmarks.robustness.reliability`; writes `benchmarks/results/reliability.json`.
Needs `wrk`, and the bundle and data of `make serve`.

Overload is measured twice. *Apart*, the service has one half of the cores and its clients have the
other half, as on two machines. *Shared*, both use all cores, so that a higher load also takes
processor time from the service.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.http.load import load_test_samples, multipart, run_wrk, write_bodies
from benchmarks.http.servers import OURS, RunningServer, Server, running
from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from benchmarks.robustness.hostile import mixed_requests
from benchmarks.robustness.overload import OverloadTest, separate_cores
from benchmarks.robustness.probe import CLIENTS, Probe
from benchmarks.samples import modality_kinds
from dimml.bundle import Bundle

SOAK_CLIENTS = 4
SETTLING_MINUTES = 2
HISTORY_ROWS = 30


def kill_worker(server: RunningServer, body: bytes) -> dict[str, Any]:
    """Kill one worker with SIGKILL under load, and measure how long its replacement takes."""
    probe = Probe(server.url, body)
    with probe.active():
        time.sleep(2)
        before = {worker.pid for worker in server.workers()}
        server.workers()[0].send_signal(signal.SIGKILL)
        started = time.monotonic()
        while {worker.pid for worker in server.workers()} <= before:
            time.sleep(0.1)
        replaced = time.monotonic() - started
        time.sleep(3)
    return {
        "probe_answers": probe.counts(),
        "in_flight_at_most": CLIENTS,
        "replaced_after_s": round(replaced, 1),
    }


def soak(
    server: RunningServer, bodies: Path, samples: Sequence[bytes], folder: Path, minutes: float
) -> dict[str, Any]:
    """Send good and bad requests, and watch memory, descriptors and temporary files."""
    stop = threading.Event()
    counts: Counter[str] = Counter()
    threads = [
        threading.Thread(target=_send_mixed, args=(server.url, samples, number, counts, stop))
        for number in range(SOAK_CLIENTS)
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
    # Caches and pools fill during the first minutes, which is no leak.
    settled = [row for row in history if row["minute"] >= min(SETTLING_MINUTES, minutes / 2)]
    return {
        "minutes": minutes,
        "mixed_answers": dict(counts),
        "growth_after_2_minutes": {
            key: round(settled[-1][key] - settled[0][key], 1) for key in ("pss_mib", "descriptors")
        },
        "files_left": settled[-1]["temporary_files"] - history[0]["temporary_files"],
        "history": history[:: max(1, len(history) // HISTORY_ROWS)],
    }


def _send_mixed(
    url: str, samples: Sequence[bytes], seed: int, counts: Counter[str], stop: threading.Event
) -> None:
    generator = random.Random(seed)
    address = urlsplit(url).netloc
    while not stop.is_set():
        path, headers, body = generator.choice(mixed_requests(samples, generator))
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("POST", path, body, headers)
            if generator.random() < 0.1:
                # The client disconnects before the answer.
                counts["left"] += 1
                continue
            counts[str(connection.getresponse().status)] += 1
        except (OSError, http.client.HTTPException) as error:
            counts[type(error).__name__] += 1
        finally:
            connection.close()


def _footprint(server: RunningServer, folder: Path) -> dict[str, float]:
    return {
        "pss_mib": round(server.memory_mib()["pss"], 1),
        "descriptors": sum(worker.num_fds() for worker in server.workers()),
        "temporary_files": sum(1 for _ in folder.rglob("*")),
    }


def main() -> None:
    """Measure and write the report."""
    parser = benchmark_parser(__doc__, "bundle", "data")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase of overload")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of overload")
    parser.add_argument("--soak-minutes", type=float, default=15.0)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    kinds = modality_kinds(bundle)
    samples = load_test_samples(bundle, options.data)
    requests = [multipart(sample, kinds) for sample in samples]
    server = Server(OURS, ("-m", "dimml", "serve", str(options.bundle), "--port", "{port}"))
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        bodies, temporary = Path(name) / "bodies", Path(name) / "temporary"
        write_bodies(bodies, samples, list(kinds), kinds)
        temporary.mkdir()
        for _ in range(options.repeats):
            with (
                separate_cores() as take_other_cores,
                running(server, requests[0], temporary) as service,
            ):
                take_other_cores()
                apart = OverloadTest(service, bodies, requests[0], options.seconds).run()
            with running(server, requests[0], temporary) as service:
                shared = OverloadTest(service, bodies, requests[0], options.seconds).run()
            rounds.append({"apart": apart, "shared": shared})
        with running(server, requests[0], temporary) as service:
            killed = kill_worker(service, requests[0])
            soaked = soak(service, bodies, requests, temporary, options.soak_minutes)
    figures = {
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
    document = write_result("reliability", figures)
    shown = {**document, "soak": {**soaked, "history": "..."}}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")


if __name__ == "__main__":
    main()
