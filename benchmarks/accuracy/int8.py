"""What int8 buys and costs on this processor: throughput of encoders, accuracy on the digits.

Run as `python -m benchmarks.accuracy.int8` where `make serve` has made `runs/digits`; writes
`benchmarks/results/int8.json`. Times are of one thread, fp32 and int8 in turn, medians.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from dimml.bundle import Bundle
from dimml.machine import describe_machine
from dimml.modalities import KINDS, Arrays, Kind
from dimml.nn.encoders import build_encoder
from dimml.runtime.session import Graph
from dimml.samples import is_absent
from dimml.table import Row
from export.onnx import export_encoder
from export.precision import compare_bundles, convert_bundle
from export.quantize import CalibrationSamples, quantize_graph
from train.data.splits import read_split

RESULT = Path(__file__).parents[1] / "results" / "int8.json"
BUNDLE = Path("runs/digits/bundle")
TABLE = Path("runs/digits/data/manifest.parquet")
BATCH_SIZES = (1, 16)
SECONDS = 12.0
"""For each encoder and batch size."""
CROPS = 64
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")


def main() -> None:
    """Quantises, times and compares; prints the times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits, encoders = _digits(folder)
        encoders["resnet18 at 224 px"] = _resnet18(folder)
    report = {
        "machine": {**describe_machine(), "instructions": _instructions()},
        "encoders": encoders,
        "digits": digits,
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(encoders, indent=2) + "\n")


def _digits(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The digits bundle: accuracy per subset of the splits, and times of its encoders."""
    bundle = Bundle.load(BUNDLE)
    names = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    train, validation, test = (
        read_split(TABLE, names, split) for split in ("train", "validation", "test")
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
    """An untrained ResNet-18, calibrated on crops of scikit-learn's two photographs."""
    torch.manual_seed(0)
    kind = KINDS["image"]("image", {"size": [224, 224]})
    fp32, int8 = folder / "resnet18.onnx", folder / "resnet18.int8.onnx"
    export_encoder(build_encoder(kind, 128, preset="resnet18"), kind, fp32)
    random = np.random.default_rng(0)
    photographs = load_sample_images().images
    rows = []
    for number in range(CROPS):
        photograph = photographs[number % 2]
        top, left = (int(random.integers(side - 224)) for side in photograph.shape[:2])
        crop = np.ascontiguousarray(photograph[top : top + 224, left : left + 224])
        rows.append(Row(str(number), None, None, {"image": crop}))
    quantize_graph(fp32, int8, CalibrationSamples(kind, rows))
    return _times(fp32, int8, kind, rows)


def _times(fp32: Path, int8: Path, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """Milliseconds per call and their ratio, per batch size, and the size of the graphs."""
    values = [row.sample[kind.name] for row in rows if not is_absent(row.sample[kind.name])]
    items = [kind.preprocess(kind.decode(value)) for value in values[: max(BATCH_SIZES)]]
    graphs = [Graph(path, "cpu", threads=1) for path in (fp32, int8)]
    megabytes = (round(path.stat().st_size / 1e6, 2) for path in (fp32, int8))
    found: dict[str, Any] = {"megabytes": dict(zip(("fp32", "int8"), megabytes, strict=True))}
    for size in BATCH_SIZES:
        first, second = _interleaved(graphs, kind.collate(items[:size]))
        found[f"batch {size}"] = {
            "fp32_ms": round(1000 * first, 3),
            "int8_ms": round(1000 * second, 3),
            "throughput_ratio": round(first / second, 2),
        }
    return found


def _interleaved(graphs: Sequence[Graph], inputs: Arrays) -> list[float]:
    """Median seconds of each graph's call, the graphs taking turns."""
    seconds: list[list[float]] = [[] for _ in graphs]
    for graph in graphs:
        graph.run(inputs)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for number, graph in enumerate(graphs):
            started = time.perf_counter()
            graph.run(inputs)
            seconds[number].append(time.perf_counter() - started)
    return [statistics.median(values) for values in seconds]


def _instructions() -> list[str]:
    """What the processor has for integers: without VNNI, int8 gains less."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in INSTRUCTIONS if name in flags]


if __name__ == "__main__":
    main()
