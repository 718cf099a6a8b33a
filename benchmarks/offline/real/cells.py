"""One measurement of a subject, in one or more processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from dimml.machine import SOURCE_ROOT


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        subject: A name of `benchmarks.offline.real.subjects.SUBJECTS`.
        kind: The modality, or `all`.
        precision: Precision of the encoders.
        batch: Samples per graph call, for subjects that leave it to their caller.
        threads: Threads of a process.
        processes: Processes that compute at the same time.
        seconds: Duration.
    """

    subject: str
    kind: str
    precision: str = "fp32"
    batch: int = 16
    threads: int = 1
    processes: int = 2
    seconds: float = 4.0


def run_cell(cell: Cell, rivals: Path) -> dict[str, Any]:
    """Measure a cell, and return its fields and its figures.

    Args:
        cell: What to measure.
        rivals: Folder of the packages of rivals.

    Returns:
        `per_second` and `added_mib` of all processes together, `peak_mib` of the largest, and means
        of `cpu_ms` per sample, `p50_ms` and `p99_ms`. `error` alone if a process fails.
    """
    paths = [str(SOURCE_ROOT), str(rivals), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": str(cell.threads),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "benchmarks.offline.real.worker", json.dumps(asdict(cell))]
    processes = [
        subprocess.Popen(
            command,
            env=environment,
            cwd=SOURCE_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(cell.processes)
    ]
    try:
        ready = [_read_line(process, "ready") for process in processes]
        if not all(ready):
            return {**asdict(cell), "error": "a process failed while it loaded"}
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        lines = [_read_line(process, "{") for process in processes]
        if not all(lines):
            return {**asdict(cell), "error": "a process failed while it computed"}
        return {**asdict(cell), **_joined([json.loads(line) for line in lines])}
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _read_line(process: subprocess.Popen[str], start: str) -> str:
    """Return the first line that begins so, because libraries may print others; else ''."""
    assert process.stdout is not None
    return next((line for line in process.stdout if line.startswith(start)), "")


def _joined(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        "per_second": sum(one["per_second"] for one in figures),
        "added_mib": sum(one["added_mib"] for one in figures),
        "peak_mib": max(one["peak_mib"] for one in figures),
        **{key: mean(one[key] for one in figures) for key in ("cpu_ms", "p50_ms", "p99_ms")},
    }
