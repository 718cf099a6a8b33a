"""Kill `dimml score` at random moments, and compare the result with that of an undisturbed run.

Run `python -m benchmarks.offline.resume`; writes `benchmarks/results/resume.json`. The job scores
20,000 rows of the digits data, of which one in twenty is unreadable. It is killed 20 times with
`kill -9`, once with `--on-unreadable error` and once with `--on-unreadable absent`. Exits with 1 if
the parts differ.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from benchmarks.offline.scoring import read_score_report, score_command, write_table
from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from benchmarks.samples import modality_kinds, read_samples
from dimml.bundle import Bundle
from dimml.progress import print_status

PART_ROWS = 250
MODES = ("error", "absent")
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def damaged_samples(bundle: Bundle, data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the samples of the data for ever; in one of twenty, a file is missing or truncated."""
    files = [name for name, kind in modality_kinds(bundle).items() if kind != "text"]
    truncated = folder / "truncated"
    truncated.write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    samples = list(read_samples(bundle, data))
    for number, sample in enumerate(cycle(samples)):
        if number % 20 == 7:
            damaged = truncated if number % 3 else folder / "missing"
            yield {**sample, files[number % len(files)]: damaged}
        else:
            yield sample


def digests(folder: Path) -> dict[str, str]:
    """Return the checksum of each part."""
    parts = sorted(folder.glob("part-*.parquet"))
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in parts}


def run_undisturbed(command: Sequence[str], out: Path) -> tuple[float, float]:
    """Run the command, and return the seconds until its first part and until its end."""
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


def run_killed(
    command: Sequence[str], out: Path, kills: int, seed: int, max_seconds: float
) -> dict[str, Any]:
    """Start the command and kill it several times, then let it finish.

    Args:
        command: The command without its output folder.
        out: The output folder.
        kills: How often to kill the command.
        seed: Decides the moments.
        max_seconds: The latest moment, in seconds after the start of the command.
    """
    generator = random.Random(seed)
    moments, parts = [], []
    for _ in range(kills):
        seconds = generator.uniform(0.1, max_seconds)
        with subprocess.Popen([*command, str(out)], **QUIET) as process:
            time.sleep(seconds)
            if process.poll() is not None:
                raise RuntimeError("the command ended before it was killed; increase --rows")
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
        psutil.wait_procs(children, timeout=10)
        moments.append(round(seconds, 2))
        parts.append(len(digests(out)))
    subprocess.run([*command, str(out)], check=True, **QUIET)
    return {"killed_after_s": moments, "parts_there": parts}


def main() -> None:
    """Measure and write the report."""
    parser = benchmark_parser(__doc__, "bundle", "data")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    figures: dict[str, Any] = {"rows": options.rows, "kills": options.kills}
    for seed, mode in enumerate(MODES):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table, whole, out = folder / "in.parquet", folder / "whole", folder / "out"
            write_table(table, damaged_samples(bundle, options.data, folder), options.rows)
            command = score_command(
                options.bundle, table, "--part-rows", str(PART_ROWS), "--on-unreadable", mode
            )
            first, end = run_undisturbed(command, whole)
            # All killed runs together must leave work for the last one.
            max_seconds = first + 1.5 * (end - first) / options.kills
            killed = run_killed(command, out, options.kills, seed, max_seconds)
            expected = digests(whole)
            figures[mode] = {
                **killed,
                "parts": len(expected),
                "identical": digests(out) == expected,
                "errors": read_score_report(out)["errors"],
            }
            print_status(f"{mode}: {json.dumps(figures[mode])}")
    write_result("resume", figures)
    sys.exit(0 if all(figures[mode]["identical"] for mode in MODES) else 1)


if __name__ == "__main__":
    main()
