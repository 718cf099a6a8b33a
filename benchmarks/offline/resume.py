"""Kills `dimml score` at random moments, and compares what it ends with to a run that was not.

Run as `python -m benchmarks.offline.resume`; writes `benchmarks/results/resume.json`. 20,000
rows of the digits data, one in twenty unreadable; 20 times `kill -9`, once for each way to treat
those rows.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet

from dimml.bundle import Bundle
from dimml.machine import describe_machine
from dimml.samples import is_absent
from dimml.table import read_rows

RESULT = Path(__file__).parents[1] / "results" / "resume.json"
PART_ROWS = 250
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def write_table(path: Path, bundle: Path, data: Path, rows: int) -> None:
    """Rows of the data in turn; of one in twenty, a file is missing, cut short or no such file."""
    kinds = {n: s.kind for n, s in Bundle.load(bundle).manifest.modalities.items()}
    samples = [dict(row.sample) for row in read_rows(data / "manifest.parquet", kinds)]
    files = [name for name, kind in kinds.items() if kind != "text"]
    broken = path.parent / "broken"
    broken.write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    records = []
    for number, sample in enumerate(islice(cycle(samples), rows)):
        record = {n: None if is_absent(v) else str(v) for n, v in sample.items()}
        if number % 20 == 7:
            record[files[number % len(files)]] = str(broken if number % 3 else path.parent / "no")
        records.append({"id": str(number), **record})
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)


def digests(folder: Path) -> dict[str, str]:
    """The checksum of each part."""
    parts = sorted(folder.glob("part-*.parquet"))
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in parts}


def uninterrupted(command: Sequence[str], out: Path) -> tuple[float, float]:
    """Runs the command: seconds until the first part was there, and in all."""
    started = time.monotonic()
    first = None
    with subprocess.Popen([*command, str(out)], **QUIET) as process:
        while process.poll() is None:
            if first is None and digests(out):
                first = time.monotonic() - started
            time.sleep(0.01)
    if process.returncode or first is None:
        raise RuntimeError(f"exit code {process.returncode}")
    return first, time.monotonic() - started


def killed(
    command: Sequence[str], out: Path, kills: int, seed: int, until: float
) -> dict[str, Any]:
    """Runs the command again and again, killing it; the last time it may end.

    Args:
        command: without its output.
        out: the output.
        kills: how many.
        seed: of their moments.
        until: seconds after its start, the latest of them.
    """
    chosen = random.Random(seed)
    moments, parts = [], []
    for _ in range(kills):
        seconds = chosen.uniform(0.1, until)
        with subprocess.Popen([*command, str(out)], **QUIET) as process:
            time.sleep(seconds)
            if process.poll() is not None:
                raise RuntimeError("it ended before it was killed: give it more rows")
            started = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        psutil.wait_procs(started, timeout=10)
        moments.append(round(seconds, 2))
        parts.append(len(digests(out)))
    subprocess.run([*command, str(out)], check=True, **QUIET)
    return {"killed_after_s": moments, "parts_there": parts}


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/bundle"))
    parser.add_argument("--data", type=Path, default=Path("runs/digits/data"))
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "rows": given.rows,
        "kills": given.kills,
    }
    for seed, mode in enumerate(("error", "absent")):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table = folder / "in.parquet"
            write_table(table, given.bundle, given.data.absolute(), given.rows)
            command = [sys.executable, "-m", "dimml", "score", str(given.bundle), str(table)]
            command += ["--part-rows", str(PART_ROWS), "--on-unreadable", mode]
            command += ["--providers", "cpu"]
            whole, out = folder / "whole", folder / "out"
            first, end = uninterrupted(command, whole)
            # So that all of them together do less than the whole.
            until = first + 1.5 * (end - first) / given.kills
            found = killed(command, out, given.kills, seed, until)
            expected = digests(whole)
            report[mode] = {
                **found,
                "parts": len(expected),
                "identical": digests(out) == expected,
                "errors": json.loads((out / "_SUCCESS.json").read_text())["errors"],
            }
            sys.stdout.write(f"{mode}: {json.dumps(report[mode])}\n")
            sys.stdout.flush()
    RESULT.write_text(json.dumps(report, indent=1) + "\n")
    if not all(report[mode]["identical"] for mode in ("error", "absent")):
        sys.exit(1)


if __name__ == "__main__":
    main()
