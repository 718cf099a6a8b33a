"""Compare PyTorch, compiled PyTorch and dimml's runtime on a GPU with the limits of the card.

Run `python -m benchmarks.gpu`; it needs no data and no network. Writes
`benchmarks/results/gpu.json` after every measurement and `gpu.md` at the end. An interrupted run
resumes with the same command.

Inputs start in page-locked memory of the host, and features end in memory of the device. Only
`dimml, plain` uses arrays of the host for both. `--device cpu --quick` runs everything on the
processor with small sizes and writes `runs/gpu.json`: a test of the script, not a measurement.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import roofline, runtimes
from benchmarks.gpu.models import EncoderCase, encoder_cases, write_whole
from benchmarks.gpu.report import markdown
from benchmarks.http.floor import StageLoop
from benchmarks.measurement import time_in_turn
from benchmarks.options import benchmark_parser
from benchmarks.results import RESULTS, write_result
from dimml import Predictor
from dimml.errors import ProviderError
from dimml.machine import SOURCE_ROOT, describe_machine
from dimml.progress import print_status
from dimml.runtime.providers import GpuOptions, choose_provider

HOST_SAMPLES = 24
"""Samples for which the host's decoding and preprocessing are timed."""


class ResumableMeasurements:
    """The settings of a run, and the figures that are measured so far.

    Attributes:
        document: The content of `gpu.json`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.quick = options.device, options.quick
        self.seconds = 0.1 if options.quick else options.seconds
        self.batches = (1, 2) if options.quick else tuple(options.batches)
        self._folder = SOURCE_ROOT / "runs" if options.quick else RESULTS
        self._deadline = time.monotonic() + options.minutes * 60
        path = self._folder / "gpu.json"
        self.document: dict[str, Any] = {
            "machine": {**describe_machine(), "gpu": _card() if self.device == "cuda" else None},
            "encoders": {},
            "failed": {},
            **(json.loads(path.read_text()) if path.exists() else {}),
        }
        if options.note:
            self.document["note"] = options.note

    def save(self, finished: bool = False) -> None:
        """Write the figures, and the report if all are measured."""
        write_result("gpu", self.document, markdown if finished else None, self._folder)

    def check_time(self) -> None:
        """Exit with 3 if the time is over."""
        if time.monotonic() > self._deadline:
            print_status("the time is over; run the same command to resume")
            raise SystemExit(3)


def main() -> None:
    """Measure what the result file lacks, and write the report."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--quick", action="store_true", help="only test the script")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8, 64, 256], help="batch sizes to measure"
    )
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="exit with 3 after this time, to be resumed"
    )
    parser.add_argument("--note", help="a sentence about the installation, for the report")
    options = parser.parse_args()
    try:
        if options.device == "cuda":
            choose_provider("cuda")
        _measure(ResumableMeasurements(options))
    except ProviderError as error:
        print_status(f"error: {error}; use --device cpu to test the script")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print_status("stopped; run the same command to resume")
        raise SystemExit(3) from None


def _measure(bench: ResumableMeasurements) -> None:
    if "rates" not in bench.document:
        bench.document["rates"] = roofline.rates(bench.device, bench.quick)
        bench.save()
    cases = encoder_cases()
    with tempfile.TemporaryDirectory() as name:
        for case in cases.values():
            measure_encoder(bench, case, Path(name))
        if "whole" not in bench.document:
            bench.document["whole"] = measure_whole(bench, cases, Path(name) / "bundle")
    bench.save(finished=True)
    sys.stdout.write(markdown(bench.document))


def measure_encoder(bench: ResumableMeasurements, case: EncoderCase, folder: Path) -> None:
    """Measure every precision and batch size; the runtimes of a cell take turns."""
    for precision in roofline.PRECISIONS:
        for size in bench.batches:
            key = f"{case.name} | {precision} | {size}"
            if key in bench.document["encoders"]:
                continue
            bench.check_time()
            # After 8 compilations of one `forward`, `torch.compile` would silently run eager.
            torch.compiler.reset()
            roofline.allow_tf32(precision == "tf32")
            seconds = time_in_turn(
                dict(_working_runs(bench, case, folder, precision, size, key)), bench.seconds
            )
            inputs = {n: torch.from_numpy(a) for n, a in case.batch(size).items()}
            cost = roofline.work(case.module.cpu().float(), inputs, 2 if precision == "fp16" else 4)
            bench.document["encoders"][key] = {
                "work": cost,
                "least_ms": 1000 * roofline.least_seconds(cost, bench.document["rates"], precision),
                "ms": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
                "p95_ms": {
                    name: 1000 * float(np.quantile(each, 0.95)) for name, each in seconds.items()
                },
            }
            bench.save()


def _working_runs(
    bench: ResumableMeasurements,
    case: EncoderCase,
    folder: Path,
    precision: str,
    size: int,
    key: str,
) -> Iterator[tuple[str, runtimes.Run]]:
    """Yield each runtime that computes the cell, warmed up, and record the error of the others."""
    for name, prepare in runtimes.encoder_runs(case, folder, bench.device, precision, size).items():
        try:
            run = prepare()
            for _ in range(3):
                run()
            roofline.synchronize(bench.device)
        except Exception as error:
            # The failure of one runtime must not lose the figures of the others.
            bench.document["failed"][f"{key} | {name}"] = f"{type(error).__name__}: {error}"[:500]
            continue
        yield name, run


def measure_whole(
    bench: ResumableMeasurements, cases: Mapping[str, EncoderCase], path: Path
) -> dict[str, Any]:
    """Measure three modalities together, from arrays to answers, and the host's work before."""
    roofline.allow_tf32(False)
    model = write_whole(path, dict(cases))
    sample = {name: case.raw for name, case in cases.items()}
    count = 4 if bench.quick else HOST_SAMPLES
    loop = StageLoop(path, answers=False)
    loop.run([sample])
    before = dict(loop.seconds)
    loop.run([sample] * count)
    host = {
        stage: 1000 * (loop.seconds[stage] - before[stage]) / count
        for stage in ("decode", "preprocess")
    }
    cells = {}
    for size in bench.batches:
        runs: dict[str, runtimes.Run] = {}
        for name, gpu in (
            (runtimes.BOUND, GpuOptions()),
            (runtimes.GRAPHS, GpuOptions(cuda_graphs=True)),
        ):
            if gpu.cuda_graphs and bench.device == "cpu":
                continue
            predictor = Predictor.load(path, bench.device, gpu=gpu)
            predictor.warm_up(size)
            ready: Any = predictor.preprocess(predictor.decode([(sample, "error")] * size))
            runs[name] = lambda p=predictor, r=ready: p.fuse(p.encode(r))  # type: ignore[misc]
        inputs = {name: case.batch(size) for name, case in cases.items()}
        runs[runtimes.EAGER] = runtimes.model_run(
            model, inputs, bench.device, lambda module: module
        )
        runs[runtimes.COMPILED] = runtimes.model_run(model, inputs, bench.device, runtimes.compiled)
        seconds = time_in_turn(runs, bench.seconds)
        cells[str(size)] = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    return {"ms": cells, "host_ms_per_sample": host}


def _card() -> str:
    """Return the name, memory, driver and power limit of the GPU."""
    query = "name,memory.total,driver_version,power.limit"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
