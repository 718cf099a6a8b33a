"""Train and score beside other work: how much longer it takes than alone.

Run `python -m benchmarks.training.beside`; it needs the data and the bundle of `make serve`, and
writes `benchmarks/results/beside.json` and `.md`. Every command runs alone, twice at once, and
beside as many busy processes as there are cores; trainings also with threads that wait actively, as
is OpenMP's default. A fair share of the cores takes twice the time of a run alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.options import benchmark_parser
from benchmarks.results import Document, write_result
from dimml.machine import SOURCE_ROOT, available_cores
from dimml.progress import print_status
from dimml.startup import PASSIVE_WAITS

LIMIT_SECONDS = 170
ACTIVE = {"OMP_WAIT_POLICY": "ACTIVE"}
RECIPE = SOURCE_ROOT / "train" / "recipes" / "digits.yaml"

Command = Callable[[Path], list[str]]
"""Returns the arguments of `dimml` that write into a folder."""


def run_at_once(commands: Sequence[list[str]], variables: dict[str, str]) -> float | None:
    """Return the seconds until all commands end, None if that takes longer than the limit."""
    inherited = {
        k: v for k, v in os.environ.items() if k not in (*PASSIVE_WAITS, "OMP_NUM_THREADS")
    }
    environment = {**inherited, **variables}
    started = time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "dimml", *command],
            env=environment,
            cwd=SOURCE_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        for process in running:
            process.wait(max(0.0, started + LIMIT_SECONDS - time.monotonic()))
            if process.returncode:
                raise RuntimeError(f"exit code {process.returncode}: {' '.join(commands[0])}")
    except subprocess.TimeoutExpired:
        return None
    finally:
        for process in running:
            process.kill()
            process.wait()
    return round(time.monotonic() - started, 1)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Keep every core busy with one process for the block."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(available_cores())
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def measure(command: Command, variables: dict[str, str]) -> dict[str, float | None]:
    """Return the seconds of a command alone, of two at once, and beside busy cores.

    A first run, which is not measured, reads programs and data from the disk.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folders = iter([Path(scratch, str(number)) for number in range(5)])
        run_at_once([command(next(folders))], variables)
        seconds = {"alone": run_at_once([command(next(folders))], variables)}
        two = [command(next(folders)), command(next(folders))]
        seconds["two at once"] = run_at_once(two, variables)
        with busy_cores():
            seconds["beside busy cores"] = run_at_once([command(next(folders))], variables)
    return seconds


def _train(data: Path, cache: Path) -> Command:
    def command(folder: Path) -> list[str]:
        # The decoded data are there already, so that the training itself is measured.
        shutil.copytree(cache, folder / "cache")
        settings = ["--set", f"data={data}", "--set", "training.epochs=3"]
        return ["train", str(RECIPE), *settings, "--out", str(folder / "run")]

    return command


def _report(document: Document) -> str:
    situations = ("alone", "two at once", "beside busy cores")
    lines = [
        "# Training and scoring beside other work",
        "",
        "Seconds of `dimml train` (digits, three epochs) and `dimml score` (the digits table).",
        "*Two at once*: until both end. *Beside busy cores*: one process per core never pauses.",
        f"A dash: not finished within {LIMIT_SECONDS} s.",
        "",
        f"|  | {' | '.join(situations)} |",
        "|---|--:|--:|--:|",
    ]
    for name, seconds in document["seconds"].items():
        cells = ["-" if seconds[s] is None else f"{seconds[s]:.1f}" for s in situations]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark."""
    options = benchmark_parser(__doc__, "bundle", "data").parse_args()
    table = options.data / "manifest.parquet"
    cache = options.data.parent / "cache"
    train = _train(table, cache)
    cases: dict[str, tuple[Command, dict[str, str]]] = {
        "train, as it is": (train, {}),
        "train, threads that wait actively": (train, ACTIVE),
        "score": (lambda folder: ["score", str(options.bundle), str(table), str(folder)], {}),
    }
    seconds: dict[str, Any] = {}
    for name, (command, variables) in cases.items():
        seconds[name] = measure(command, variables)
        print_status(f"{name}: {seconds[name]}")
    write_result("beside", {"seconds": seconds, "limit_seconds": LIMIT_SECONDS}, _report)


if __name__ == "__main__":
    main()
