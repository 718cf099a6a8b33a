"""Encoders on a GPU: PyTorch, compiled PyTorch and this runtime, against what the card can do.

Run as `python -m benchmarks.gpu`; it needs no data and no network. Writes
`benchmarks/results/gpu.json` after every measurement, goes on where it was stopped, and writes
`gpu.md`. Inputs start in page-locked memory of the host and features end in the memory of the
device, for every runtime but `dimml, plain`, whose inputs and features are arrays of the host.
`--device cpu --quick` runs all of it on the processor, small, into `runs/gpu.json`: a test of the
script, not a measurement.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.models import Case, Half, cases, write_whole
from benchmarks.gpu.roofline import allow_tf32, least_seconds, rates, synchronize, work
from dimml import Predictor
from dimml.errors import ProviderError
from dimml.files import write_atomic
from dimml.machine import describe_machine
from dimml.nn.fusion import blank_absent
from dimml.runtime.cuda import BoundEncoder, Device, Staging
from dimml.runtime.providers import GpuOptions, choose_provider
from dimml.runtime.session import Graph

RESULTS = Path(__file__).parents[1] / "results"
PRECISIONS = ("fp32", "tf32", "fp16")
EAGER, COMPILED = "PyTorch eager", "torch.compile"
PLAIN, BOUND, GRAPHS = "dimml, plain", "dimml, I/O binding", "dimml, CUDA graphs"
RUNTIMES = (EAGER, COMPILED, PLAIN, BOUND, GRAPHS)
DECODED = 24
"""Samples to time the host's work on."""

Run = Callable[[], Any]


class Bench:
    """What is measured, where, and what was found so far."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.device, self.quick = given.device, given.quick
        self.seconds = 0.1 if given.quick else given.seconds
        self.batches = (1, 2) if given.quick else tuple(given.batches)
        self.path = Path("runs/gpu.json") if given.quick else RESULTS / "gpu.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.until = time.monotonic() + given.minutes * 60
        self.report: dict[str, Any] = {
            "machine": {**describe_machine(), "gpu": _card() if self.device == "cuda" else None},
            "encoders": {},
            "failed": {},
            **found,
        }

    def save(self) -> None:
        """Writes what was found so far."""
        write_atomic(self.path, json.dumps(self.report, indent=1) + "\n")

    def check_time(self) -> None:
        """Stops where the time is over; the next call goes on."""
        if time.monotonic() > self.until:
            sys.stderr.write("time is over; the same command goes on\n")
            raise SystemExit(3)


def main() -> None:
    """Measures what is not in the result file yet, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Examples: python -m benchmarks.gpu; with --minutes 9, again and again; with "
        "--device cpu --quick.",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu is to test the script"
    )
    parser.add_argument("--quick", action="store_true", help="a test of the script")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 8, 64, 256], help="sizes that are measured"
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after, exit 3")
    given = parser.parse_args()
    try:
        if given.device == "cuda":
            choose_provider("cuda")
        _measure(Bench(given))
    except ProviderError as error:
        sys.stderr.write(f"error: {error}; --device cpu tests the script\n")
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on\n")
        raise SystemExit(3) from None


def _measure(bench: Bench) -> None:
    if "rates" not in bench.report:
        bench.report["rates"] = rates(bench.device, bench.quick)
        bench.save()
    found = cases()
    with tempfile.TemporaryDirectory() as name:
        for case in found.values():
            measure_encoder(bench, case, Path(name))
        if "whole" not in bench.report:
            bench.report["whole"] = measure_whole(bench, found, Path(name) / "bundle")
            bench.save()
    table = markdown(bench.report)
    write_atomic(bench.path.with_suffix(".md"), table)
    sys.stdout.write(table)


def measure_encoder(bench: Bench, case: Case, folder: Path) -> None:
    """Every runtime, precision and batch size; the runtimes of a cell take turns."""
    for precision in PRECISIONS:
        for size in bench.batches:
            key = f"{case.name} | {precision} | {size}"
            if key in bench.report["encoders"]:
                continue
            bench.check_time()
            allow_tf32(precision == "tf32")
            runs = dict(_runs(bench, case, folder, precision, size, key))
            seconds = in_turn(runs, bench.device, bench.seconds)
            given = {n: torch.from_numpy(a) for n, a in case.batch(size).items()}
            asked = work(case.module.cpu().float(), given, 2 if precision == "fp16" else 4)
            bench.report["encoders"][key] = {
                "work": asked,
                "least_ms": 1000 * least_seconds(asked, bench.report["rates"], precision),
                "ms": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
                "p95_ms": {
                    name: 1000 * float(np.quantile(each, 0.95)) for name, each in seconds.items()
                },
            }
            bench.save()


def _runs(
    bench: Bench, case: Case, folder: Path, precision: str, size: int, key: str
) -> Iterator[tuple[str, Run]]:
    """By runtime, what makes the features of a batch; one that fails is said and left out."""
    inputs = case.batch(size)
    makers: dict[str, Callable[[], Run]] = {
        EAGER: lambda: in_torch(_module(case, precision, bench.device), inputs, bench.device),
        COMPILED: lambda: in_torch(
            _compiled(_module(case, precision, bench.device)), inputs, bench.device
        ),
        PLAIN: lambda: _plain(bench, case.export(folder, _graph(precision)), precision, inputs),
        BOUND: lambda: bound(bench, case.export(folder, _graph(precision)), precision, inputs),
    }
    if bench.device == "cuda":
        makers[GRAPHS] = lambda: bound(
            bench, case.export(folder, _graph(precision)), precision, inputs, cuda_graphs=True
        )
    for name, make in makers.items():
        try:
            run = make()
            for _ in range(3):
                run()
            synchronize(bench.device)
        except Exception as error:
            # One runtime that cannot do a cell must not cost the others theirs.
            bench.report["failed"][f"{key} | {name}"] = f"{type(error).__name__}: {error}"[:500]
            continue
        yield name, run


def _graph(precision: str) -> str:
    return "fp16" if precision == "fp16" else "fp32"


def _module(case: Case, precision: str, device: str) -> nn.Module:
    # A copy, because `half` and `to` change a module in place.
    module = copy.deepcopy(case.module)
    return (Half(module) if precision == "fp16" else module).to(device).eval()


def _compiled(module: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(module, mode="reduce-overhead", dynamic=False)
    return compiled


def in_torch(module: nn.Module, inputs: Mapping[str, np.ndarray], device: str) -> Run:
    """Features of a module, whose inputs are copied from page-locked memory."""
    host = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in inputs.items()}
    if device == "cuda":
        host = {name: value.pin_memory() for name, value in host.items()}

    @torch.inference_mode()
    def run() -> Tensor:
        given = {name: value.to(device, non_blocking=True) for name, value in host.items()}
        features: Tensor = module(**given)
        synchronize(device)
        return features

    return run


def _plain(bench: Bench, path: Path, precision: str, inputs: Mapping[str, np.ndarray]) -> Run:
    graph = Graph(path, bench.device, gpu=GpuOptions(tf32=precision == "tf32"))
    return lambda: graph.run(inputs)


def bound(
    bench: Bench,
    path: Path,
    precision: str,
    inputs: Mapping[str, np.ndarray],
    cuda_graphs: bool = False,
) -> Run:
    """Features of a graph on the device, as the service makes them."""
    gpu = GpuOptions(tf32=precision == "tf32", cuda_graphs=cuda_graphs)
    graph = Graph(path, bench.device, gpu=gpu)
    device = Device(bench.device, 0, cuda_graphs)
    encoder = BoundEncoder(graph, device)
    size = len(next(iter(inputs.values())))
    staging = Staging(1, size, int(graph.outputs["features"][-1]), device)
    encoder.warm_up(inputs, staging, 0, size)

    def run() -> None:
        encoder.launch(inputs, staging, 0, size)
        encoder.wait()

    return run


def in_turn(runs: Mapping[str, Run], device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, the runs taking turns until each had its time."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    while any(sum(each) < seconds for each in found.values()):
        for name, run in runs.items():
            if sum(found[name]) >= seconds:
                continue
            started = time.perf_counter()
            run()
            synchronize(device)
            found[name].append(time.perf_counter() - started)
    return found


def measure_whole(bench: Bench, found: Mapping[str, Case], path: Path) -> dict[str, Any]:
    """The three modalities together, from arrays to answers, and the host's part before that."""
    allow_tf32(False)
    module = write_whole(path, dict(found))
    sample = {name: case.raw for name, case in found.items()}
    host = _host_seconds(Predictor.load(path, "cpu"), sample, 4 if bench.quick else DECODED)
    cells = {}
    for size in bench.batches:
        runs: dict[str, Run] = {}
        for name, gpu in ((BOUND, GpuOptions()), (GRAPHS, GpuOptions(cuda_graphs=True))):
            if gpu.cuda_graphs and bench.device == "cpu":
                continue
            predictor = Predictor.load(path, bench.device, gpu=gpu)
            predictor.warm_up(size)
            ready: Any = predictor.preprocess(predictor.decode([(sample, "error")] * size))
            runs[name] = lambda p=predictor, r=ready: p.fuse(p.encode(r))  # type: ignore[misc]
        inputs = {name: case.batch(size) for name, case in found.items()}
        runs[EAGER] = _together(module, inputs, bench.device, lambda m: m)
        runs[COMPILED] = _together(module, inputs, bench.device, _compiled)
        seconds = in_turn(runs, bench.device, bench.seconds)
        cells[str(size)] = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    fastest = max(int(n) / min(c.values()) * 1000 for n, c in cells.items())
    return {
        "ms": cells,
        "host_ms_per_sample": host,
        "samples_per_second": fastest,
        "host_cores_per_gpu": fastest * sum(host.values()) / 1000,
    }


def _together(
    model: Any, inputs: Mapping[str, Any], device: str, prepare: Callable[[nn.Module], nn.Module]
) -> Run:
    """Encoders and classifier in PyTorch, answers on the host."""
    model = copy.deepcopy(model).to(device)
    encoders = [
        in_torch(prepare(module), given, device)
        for module, given in zip(model.encoders, inputs.values(), strict=True)
    ]
    size = len(next(iter(next(iter(inputs.values())).values())))
    present = torch.ones(size, len(encoders), dtype=torch.bool, device=device)

    @torch.inference_mode()
    def run() -> list[Tensor]:
        features = torch.stack([encoder().clone() for encoder in encoders], dim=1)
        return [value.cpu() for value in model.fusion(blank_absent(features, present), present)]

    run()
    return run


def _host_seconds(predictor: Predictor, sample: Any, count: int) -> dict[str, float]:
    """Milliseconds of one core that a sample takes before its encoders."""
    requests: Any = [(sample, "error")] * count
    predictor.preprocess(predictor.decode(requests[:1]))
    started = time.perf_counter()
    decoded = predictor.decode(requests)
    middle = time.perf_counter()
    predictor.preprocess(decoded)
    end = time.perf_counter()
    return {
        "decode": 1000 * (middle - started) / count,
        "preprocess": 1000 * (end - middle) / count,
    }


def _card() -> str:
    """The GPU, its memory, its driver and its limit of power."""
    query = "name,memory.total,driver_version,power.limit"
    found = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or torch.cuda.get_device_name()


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report."""
    card = report["machine"]["gpu"] or "no GPU: a test of the script, not a measurement"
    reached = report["rates"]
    lines = [
        "# Encoders on a GPU",
        "",
        "Generated by `python -m benchmarks.gpu`; do not edit. Medians, the runtimes in turn.",
        f"{card}. It reaches "
        + ", ".join(f"{reached[p] / 1e12:.1f} TFLOP/s in {p}" for p in PRECISIONS)
        + f", and copies {reached['bytes'] / 1e9:,.0f} GB/s.",
        "",
        "| encoder | precision | batch | "
        + " | ".join(f"{n}, ms" for n in RUNTIMES)
        + " | best of ours over eager | over compiled | of the roofline |",
        "|---|---|---|" + "---|" * (len(RUNTIMES) + 3),
    ]
    for key, cell in report["encoders"].items():
        ms = cell["ms"]
        ours = min((ms[n] for n in (BOUND, GRAPHS) if n in ms), default=float("nan"))
        shown = [f"{ms[n]:.3f}" if n in ms else "failed" for n in RUNTIMES]
        over = [f"{ms[n] / ours:.2f}" if n in ms else "" for n in (EAGER, COMPILED)]
        columns = [key, *shown, *over, f"{cell['least_ms'] / ours:.0%}"]
        lines.append(f"| {' | '.join(columns)} |")
    whole = report.get("whole")
    if whole:
        names = list(dict.fromkeys(n for cell in whole["ms"].values() for n in cell))
        lines += ["", "From arrays to answers, three modalities, fp32:", ""]
        lines += ["| batch | " + " | ".join(f"{n}, ms" for n in names) + " |"]
        lines += ["|---|" + "---|" * len(names)]
        lines += [
            f"| {size} | " + " | ".join(f"{cell[n]:.3f}" for n in names) + " |"
            for size, cell in whole["ms"].items()
        ]
        host = whole["host_ms_per_sample"]
        lines += [
            "",
            f"Before that, on one core of the host: {host['decode']:.2f} ms to decode and "
            f"{host['preprocess']:.2f} ms to preprocess a sample. At "
            f"{whole['samples_per_second']:,.0f} samples/s a GPU wants "
            f"{whole['host_cores_per_gpu']:.1f} cores.",
        ]
    lines += [f"\n{key}: {why}" for key, why in report["failed"].items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
