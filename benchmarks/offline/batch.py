"""Offline scoring beside the same work in a bare loop, and beside a PyTorch DataLoader.

Run as `python -m benchmarks.offline.batch`, on a machine that does nothing else; writes
`benchmarks/results/batch.json` and `batch.md`. It needs the run, bundle and data of `make demo`.

- *floor*: on every core a process that reads, decodes, preprocesses and runs the graphs in a tight
  loop, without reading a table, keeping order or writing; the best of several batch sizes.
- *dimml*: the command `dimml score` as shipped, by the rate that its report states, which counts
  from before its processes start until the last part is written; and the whole command's time.
- *PyTorch*: a `DataLoader` with a process per core and the eager model, batches of 64; timed from
  its second batch on.

All read the same files and run in turn. Memory is of the command and its processes, shared pages
counted once, sampled five times a second.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet

from benchmarks.http.floor import Loop
from dimml.bundle import Bundle
from dimml.machine import available_cores, describe_machine
from dimml.predictor import Predictor
from dimml.samples import is_absent
from dimml.table import read_rows

RESULTS = Path(__file__).parents[1] / "results"
FLOOR_BATCHES = (16, 32, 64)
MEMORY_ROWS = (10_000, 100_000)
TORCH_BATCH = 64


def write_table(path: Path, bundle: Path, data: Path, rows: int) -> list[dict[str, Any]]:
    """A table of that many rows with every modality, and the samples that it repeats."""
    kinds = {n: s.kind for n, s in Bundle.load(bundle).manifest.modalities.items()}
    found = [dict(row.sample) for row in read_rows(data.absolute() / "manifest.parquet", kinds)]
    whole = [sample for sample in found if not any(map(is_absent, sample.values()))]
    records = [{name: str(value) for name, value in sample.items()} for sample in whole]
    repeated = list(islice(cycle(records), rows))
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([{"id": str(i), **r} for i, r in enumerate(repeated)]), path
    )
    return whole


def floor(bundle: Path, samples: Sequence[Any], batch: int, seconds: float) -> float:
    """Rows per second of loops in one process per core."""
    context = multiprocessing.get_context("spawn")
    processes = available_cores()
    barrier, results = context.Barrier(processes), context.Queue()
    children = [
        context.Process(
            target=_loop, args=(bundle, samples[n::processes], batch, seconds, barrier, results)
        )
        for n in range(processes)
    ]
    for child in children:
        child.start()
    rate = sum(results.get(timeout=seconds + 120) for _ in children)
    for child in children:
        child.join()
    return float(rate)


def _loop(
    bundle: Path, samples: Sequence[Any], batch: int, seconds: float, barrier: Barrier, results: Any
) -> None:
    loop = Loop(Predictor.load(bundle, "cpu", threads=1))
    loop.compute(samples[:batch])
    turns = cycle(range(0, len(samples) - batch, batch))
    barrier.wait(timeout=60)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        first = next(turns)
        loop.compute(samples[first : first + batch])
        count += batch
    results.put(count / elapsed)


def score(bundle: Path, table: Path, folder: Path) -> dict[str, float]:
    """Rates and peak memory of one run of the command."""
    out = folder / "scores"
    command = [sys.executable, "-m", "dimml", "score", str(bundle), str(table), str(out)]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--overwrite", "--providers", "cpu", "--json"], stdout=subprocess.DEVNULL
    ) as process:
        peak = max(_memory_until_end(psutil.Process(process.pid)))
    wall = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"dimml score exited with {process.returncode}")
    report = json.loads((out / "_SUCCESS.json").read_text())
    return {
        "per_second": report["last_run"]["rows_per_second"],
        "whole_command_per_second": report["rows"] / wall,
        "peak_mib": peak,
    }


def _memory_until_end(process: psutil.Process) -> Iterator[float]:
    yield 0.0
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        total = 0
        for one in [process, *process.children(recursive=True)]:
            try:
                total += one.memory_full_info().pss
            except psutil.Error:
                continue
        yield total / 2**20
        time.sleep(0.2)


def torch_loader(run: Path, samples: Sequence[Any], rows: int) -> float:
    """Rows per second of a plain PyTorch loop."""
    command = [sys.executable, "-m", "benchmarks.offline.torch_loader", str(run), str(rows)]
    paths = [{name: str(value) for name, value in sample.items()} for sample in samples]
    done = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout)["per_second"])


def _round(given: argparse.Namespace, folder: Path, samples: Sequence[Any]) -> dict[str, Any]:
    """Each of them once."""
    floors = {str(b): floor(given.bundle, samples, b, given.seconds) for b in FLOOR_BATCHES}
    ours = score(given.bundle, folder / "speed.parquet", folder)
    torch = torch_loader(given.run, samples, given.torch_rows)
    best = max(floors.values())
    found = {"floor": floors, "dimml": ours, "torch": torch}
    ratios = {"over_floor": ours["per_second"] / best, "over_torch": ours["per_second"] / torch}
    sys.stdout.write(json.dumps({**found, **ratios}) + "\n")
    sys.stdout.flush()
    return {**found, **ratios}


def markdown(document: dict[str, Any]) -> str:
    """The tables of the report."""
    rounds = document["rounds"]

    def row(name: str, values: list[float], form: str = ",.0f") -> str:
        middle = statistics.median(values)
        return f"| {name} | {middle:{form}} ({min(values):{form}} to {max(values):{form}}) |"

    machine_ = document["machine"]
    lines = [
        "# Offline scoring",
        "",
        "Generated by `python -m benchmarks.offline.batch`; do not edit. "
        "Rows have audio, image and text; "
        f"medians of {len(rounds)} rounds (least to greatest), {document['rows']:,} rows each.",
        f"{machine_['processor']}, {machine_['cores']} cores, {machine_['memory_gib']} GiB, "
        f"Python {machine_['python']}.",
        "",
        "| | rows/s |",
        "|---|---|",
        *(row(f"floor, batch {b}", [r["floor"][str(b)] for r in rounds]) for b in FLOOR_BATCHES),
        row("dimml score", [r["dimml"]["per_second"] for r in rounds]),
        row(
            "dimml score, whole command",
            [r["dimml"]["whole_command_per_second"] for r in rounds],
        ),
        row("PyTorch DataLoader and eager model", [r["torch"] for r in rounds]),
        "",
        "| ratio | wanted | measured |",
        "|---|---|---|",
        row("over the best floor | 0.9", [r["over_floor"] for r in rounds], ".2f"),
        row("over PyTorch | 2", [r["over_torch"] for r in rounds], ".2f"),
        "",
        "| rows | peak memory, MiB |",
        "|---|---|",
        *(f"| {int(n):,} | {mib:.0f} |" for n, mib in document["peak_mib"].items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("runs/digits/bundle"))
    parser.add_argument("--run", type=Path, default=Path("runs/digits/run"))
    parser.add_argument("--data", type=Path, default=Path("runs/digits/data"))
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--torch-rows", type=int, default=6_000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = write_table(folder / "speed.parquet", given.bundle, given.data, given.rows)
        peak = {}
        rounds = [_round(given, folder, samples) for _ in range(given.repeats)]
        for rows in MEMORY_ROWS:
            table = folder / f"{rows}.parquet"
            write_table(table, given.bundle, given.data, rows)
            peak[str(rows)] = score(given.bundle, table, folder)["peak_mib"]
    document = {
        "machine": describe_machine(),
        "rows": given.rows,
        "rounds": rounds,
        "peak_mib": peak,
    }
    (RESULTS / "batch.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "batch.md").write_text(markdown(document))
    sys.stdout.write(markdown(document))


if __name__ == "__main__":
    main()
