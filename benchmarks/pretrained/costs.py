"""Measure what each pretrained encoder costs: milliseconds per item, and megabytes.

Run `python -m benchmarks.pretrained.costs`; writes `benchmarks/results/encoders.{json,md}`, where
models that are not measured again stay. The models have their true sizes and random weights
(nothing is downloaded). Each is exported to ONNX as for a bundle and runs in onnxruntime on all
cores, in fp32 and, for transformers, in int8.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

from benchmarks.options import benchmark_parser
from benchmarks.pretrained.models import CASES, write_model
from benchmarks.results import RESULTS, machine_line, write_result
from dimml.machine import available_cores
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import join_encoder
from dimml.progress import print_status
from dimml.runtime.session import Graph
from export.onnx import export_encoder
from export.products import quantize_products
from export.quantize import is_transformer
from train.markdown import table
from train.pretrained import read_model
from train.recipe import ModalityConfig

BATCHES = (1, 16)
WORDS = 30
CLIP_SECONDS = 5.0
REPEATS = 5
MAX_SECONDS = 5.0
"""A model and batch is not repeated any more after this time."""


def make_item(kind: Kind) -> dict[str, np.ndarray]:
    """Return a preprocessed noisy image, recording of 5 seconds, or text of 30 words."""
    random = np.random.default_rng(0)
    value: Any = " ".join(f"w{number}" for number in range(WORDS))
    if kind.name == "image":
        value = random.integers(0, 256, (256, 256, 3), np.uint8)
    elif kind.name == "audio":
        samples = int(CLIP_SECONDS * kind.config.sample_rate)
        value = (0.1 * random.standard_normal(samples)).astype(np.float32)
    return kind.preprocess(kind.decode(value))


def milliseconds_per_item(path: Path, kind: Kind) -> dict[str, float]:
    """Return the time of an item in batches of each size."""
    graph = Graph(path, "cpu", threads=available_cores())
    item = make_item(kind)
    times = {}
    for batch in BATCHES:
        inputs = kind.collate([item] * batch)
        graph.run(inputs)
        seconds: list[float] = []
        while len(seconds) < REPEATS and sum(seconds) < MAX_SECONDS:
            started = time.perf_counter()
            graph.run(inputs)
            seconds.append(time.perf_counter() - started)
        times[str(batch)] = 1000 * median(seconds) / batch
    return times


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Export one model, and return its figures."""
    case = CASES[name]
    path = write_model(name, folder / name)
    # Whisper and the speech models read any length; the others keep their own.
    short = name.startswith("whisper")
    preprocessing = {"seconds": CLIP_SECONDS} if short else {}
    modality = ModalityConfig(
        kind=case.kind, preprocessing=preprocessing, encoder={"pretrained": str(path)}
    )
    model = read_model(case.kind, modality)
    kind = KINDS[case.kind](case.kind, model.preprocessing, model.assets)
    backbone = model.load()
    graph = folder / f"{name}.onnx"
    export_encoder(join_encoder(kind, backbone, nn.Identity()), kind, graph)
    rows = case.embedding_rows - int(model.settings.config.get("vocab_size") or 0)
    missing = 4 * rows * backbone.width if case.kind == "text" else 0
    figures: dict[str, Any] = {
        "like": case.like,
        "kind": case.kind,
        "features": backbone.width,
        "fp32": {
            "milliseconds": milliseconds_per_item(graph, kind),
            "megabytes": (graph.stat().st_size + missing) / 1e6,
        },
    }
    if is_transformer(graph):
        small = folder / f"{name}-int8.onnx"
        quantize_products(graph, small)
        figures["int8"] = {
            "milliseconds": milliseconds_per_item(small, kind),
            "megabytes": (small.stat().st_size + missing) / 1e6,
        }
        small.unlink()
    graph.unlink()
    return figures


def report(document: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = []
    for name, case in document["models"].items():
        cells = []
        for precision in ("fp32", "int8"):
            found = case.get(precision)
            times = [f"{found['milliseconds'][str(b)]:.1f}" for b in BATCHES] if found else ["", ""]
            cells += [*times, f"{found['megabytes']:.0f}" if found else ""]
        rows.append([name, case["kind"], case["like"], str(case["features"]), *cells])
    header = ["model", "kind", "architecture of", "features"]
    header += [
        f"{precision}: {column}"
        for precision in ("fp32", "int8")
        for column in (*(f"ms, batch {b}" for b in BATCHES), "MB")
    ]
    return "\n".join(
        [
            "# What pretrained encoders cost",
            "",
            "Milliseconds per item in onnxruntime on all cores, in batches of 1 and of 16, and the "
            f"size of the graph. An item is an image at the model's size, {CLIP_SECONDS:g} s of "
            f"audio (10 s for AST and CLAP, which read that length), or a text of {WORDS} tokens. "
            "Decoding and preprocessing are not included. "
            "`python -m benchmarks.pretrained.costs` measures again.",
            "",
            table(header, rows),
            "",
            machine_line(document["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure all models, and write the result files."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--models", default=",".join(CASES), help="default: all")
    options = parser.parse_args()
    path = RESULTS / "encoders.json"
    models: dict[str, Any] = json.loads(path.read_text())["models"] if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="dimml-costs-") as scratch:
        for name in options.models.split(","):
            models[name] = measure(name, Path(scratch))
            print_status(f"{name}: {models[name]}")
            # A benchmark that is stopped keeps what it measured; the order is that of the table.
            measured = {name: models[name] for name in CASES if name in models}
            document = write_result("encoders", {"models": measured}, report)
    print_status(report(document))


if __name__ == "__main__":
    main()
