"""One process of a measurement: load a subject, wait for the other processes, and compute.

Reads its request from its first argument, prints `ready`, waits for a line of standard input, and
prints its figures, all as JSON lines.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle
from pathlib import Path

import numpy as np
import psutil

from benchmarks.offline.real.cells import Cell
from benchmarks.offline.real.models import SPLIT_ROWS
from benchmarks.offline.real.subjects import ALL, SUBJECTS, Compute

WINDOWS = {"text": 64, "image": 16, "audio": 4, ALL: 16}
"""Samples that a subject is given at once."""

WARM_UP_ROWS = 4
LATENCY_SHARE = 0.5
"""Seconds of single samples per second of windows."""


def measure(compute: Compute, kind: str, seconds: float) -> dict[str, float]:
    """Return the samples per second and their processor time, and the latency of single ones."""
    count, window = SPLIT_ROWS["test"], WINDOWS[kind]
    windows = cycle([range(start, start + window) for start in range(0, count, window)])
    singles = cycle([range(row, row + 1) for row in range(count)])
    cpu, done = time.process_time(), 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        rows = next(windows)
        compute(rows)
        done += len(rows)
    cpu = time.process_time() - cpu
    latencies = []
    ends = time.perf_counter() + LATENCY_SHARE * seconds
    while time.perf_counter() < ends:
        latencies.append(_seconds(lambda: compute(next(singles))))
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    return {
        "per_second": done / elapsed,
        "cpu_ms": 1000 * cpu / done,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
    }


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _peak_bytes() -> int:
    """Return the largest resident size of this process.

    `getrusage` would begin with that of the parent, which Linux hands on to a new program.
    """
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])


def main() -> None:
    """Measure once."""
    cell = Cell(**json.loads(sys.argv[1]))
    before = psutil.Process().memory_info().rss
    compute = SUBJECTS[cell.subject](cell.kind, cell.precision, cell.batch, cell.threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(cell.threads)
    compute(range(WARM_UP_ROWS))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    figures = measure(compute, cell.kind, cell.seconds)
    peak = _peak_bytes()
    memory = {"peak_mib": peak / 2**20, "added_mib": (peak - before) / 2**20}
    sys.stdout.write(json.dumps({**asdict(cell), **figures, **memory}) + "\n")


if __name__ == "__main__":
    main()
