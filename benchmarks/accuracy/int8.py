"""Measure the gain of int8 in encoder throughput, and its cost in accuracy on the digits.

Run `python -m benchmarks.accuracy.int8` after `make serve` has created `runs/digits`; writes
`benchmarks/results/int8.json`. Times are medians on one thread; fp32 and int8 take turns.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from benchmarks.measurement import time_in_turn
from benchmarks.options import DIGITS, benchmark_parser
from benchmarks.results import write_result
from benchmarks.samples import modality_kinds
from dimml.bundle import Bundle
from dimml.machine import describe_machine
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import build_encoder
from dimml.runtime.session import Graph
from dimml.samples import is_absent
from dimml.table import Row, TableSource
from export.onnx import export_encoder
from export.precision import compare_bundles, convert_bundle
from export.quantize import CalibrationSamples, quantize_graph
from train.data.splits import read_split

BUNDLE = DIGITS / "bundle"
TABLE = DIGITS / "data" / "manifest.parquet"
BATCH_SIZES = (1, 16)
SECONDS_PER_GRAPH = 6.0
"""Duration for each graph and batch size."""
CROPS = 64
INTEGER_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def main() -> None:
    """Quantise, time and compare; print the times."""
    benchmark_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits, encoders = _digits(folder)
        encoders["resnet18 at 224 px"] = _resnet18(folder)
    machine = {**describe_machine(), "instructions": _instructions()}
    write_result("int8", {"machine": machine, "encoders": encoders, "digits": digits})
    sys.stdout.write(json.dumps(encoders, indent=2) + "\n")


def _digits(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the accuracy of the digits bundle by split and subset, and times of its encoders."""
    bundle = Bundle.load(BUNDLE)
    source = TableSource(TABLE, modality_kinds(bundle))
    train, validation, test = (
        read_split(source, split) for split in ("train", "validation", "test")
    )
    order = np.random.default_rng(0).permutation(len(train))
    int8 = folder / "int8"
    int8.mkdir()
    rows = [train[row] for row in order]
    report = convert_bundle(BUNDLE, int8, "int8", rows, validation)
    accuracy = {
        "validation": report["subsets"],
        "test": compare_bundles(BUNDLE, int8, "int8", test),
    }
    encoders = {
        f"digits {name}": _times(BUNDLE / f"{name}.onnx", int8 / f"{name}.onnx", kind, test)
        for name, kind in bundle.kinds().items()
    }
    return {**report, "subsets": accuracy}, encoders


def _resnet18(folder: Path) -> dict[str, Any]:
    """Return times of an untrained ResNet-18, calibrated on crops of scikit-learn's photographs."""
    torch.manual_seed(0)
    kind = KINDS["image"]("image", {"size": [224, 224]})
    fp32, int8 = folder / "resnet18.onnx", folder / "resnet18.int8.onnx"
    export_encoder(build_encoder(kind, 128, preset="resnet18"), kind, fp32)
    generator = np.random.default_rng(0)
    photographs = load_sample_images().images
    rows = []
    for number in range(CROPS):
        photograph = photographs[number % 2]
        top, left = (int(generator.integers(side - 224)) for side in photograph.shape[:2])
        crop = np.ascontiguousarray(photograph[top : top + 224, left : left + 224])
        rows.append(Row(str(number), None, None, {"image": crop}))
    quantize_graph(fp32, int8, CalibrationSamples(kind, rows))
    return _times(fp32, int8, kind, rows)


def _times(fp32: Path, int8: Path, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the size of the graphs, and milliseconds per call and their ratio by batch size."""
    values = [row.sample[kind.name] for row in rows if not is_absent(row.sample[kind.name])]
    items = [kind.preprocess(kind.decode(value)) for value in values[: max(BATCH_SIZES)]]
    paths = {"fp32": fp32, "int8": int8}
    graphs = {name: Graph(path, "cpu", threads=1) for name, path in paths.items()}
    megabytes = {name: round(path.stat().st_size / 1e6, 2) for name, path in paths.items()}
    figures: dict[str, Any] = {"megabytes": megabytes}
    for size in BATCH_SIZES:
        inputs = kind.collate(items[:size])
        runs = {name: partial(graph.run, inputs) for name, graph in graphs.items()}
        for run in runs.values():
            run()
        times = time_in_turn(runs, SECONDS_PER_GRAPH)
        ms = {name: 1000 * median(seconds) for name, seconds in times.items()}
        figures[f"batch {size}"] = {
            "fp32_ms": round(ms["fp32"], 3),
            "int8_ms": round(ms["int8"], 3),
            "throughput_ratio": round(ms["fp32"] / ms["int8"], 2),
        }
    return figures


def _instructions() -> list[str]:
    """Return the processor's integer instructions; int8 gains less without VNNI."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in INTEGER_INSTRUCTIONS if name in flags]


if __name__ == "__main__":
    main()
