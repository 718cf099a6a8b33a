"""Effective dimensions of many classes: time and memory, beside the distances to all class means.

Run `python -m benchmarks.training.dimensions`; writes `benchmarks/results/dimensions.json`. Both
forms count the same samples on the same random features. Each runs in a process of its own, whose
peak of memory is compared with that before the counting: PyTorch, the features and the labels.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.options import benchmark_parser
from benchmarks.results import write_result
from dimml.machine import SOURCE_ROOT
from dimml.nn.dimensions import correct_counts
from dimml.progress import print_status

SAMPLES, DIMENSIONS = 50_000, 512
CLASSES = (10, 1_000, 10_000)
BLOCK_ELEMENTS = 2**20
MAX_DISTANCES = 3e10
"""All distances are computed up to this number, which takes minutes."""


def count_by_all_distances(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count as `correct_counts` does, from blocks of the distances to all class means."""
    dimensions = features.shape[1]
    sums = torch.zeros(num_classes, dimensions, dtype=torch.float64)
    sums.index_add_(0, labels, features.double())
    means = sums / labels.bincount(minlength=num_classes).unsqueeze(1)
    width = max(1, min(dimensions, BLOCK_ELEMENTS // num_classes))
    height = max(1, BLOCK_ELEMENTS // (num_classes * width))
    counts = torch.zeros(dimensions, dtype=torch.int64)
    for columns in (slice(start, start + width) for start in range(0, dimensions, width)):
        blocks = torch.split(features[:, columns], height), torch.split(labels, height)
        for rows, row_labels in zip(*blocks, strict=True):
            distances = (rows.double().unsqueeze(1) - means[:, columns]).abs_()
            counts[columns] += (distances.argmin(dim=1) == row_labels.unsqueeze(1)).sum(dim=0)
    return counts


FORMS = {"sorted means": correct_counts, "all distances": count_by_all_distances}


def measure(form: str, classes: int) -> dict[str, Any]:
    """Return the seconds and the added memory of one form, and the sum of its counts."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % classes
    centres = torch.randn(classes, DIMENSIONS, generator=generator)
    features = centres[labels]
    for rows in features.split(1000):
        rows.add_(torch.randn(rows.shape, generator=generator))
    # What torch loads with its first operation of each kind is not counted.
    FORMS[form](torch.rand(20, 2), torch.arange(20) % 2, 2)
    before, started = _peak_mib(), time.perf_counter()
    counts = FORMS[form](features, labels, classes)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "added_mib": round(_peak_mib() - before, 1),
        "mib_before": round(before, 1),
        "correct": int(counts.sum()),
    }


def _peak_mib() -> float:
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--form", choices=tuple(FORMS), help="measure only this form, and print it")
    parser.add_argument("--classes", type=int, help="with --form")
    options = parser.parse_args()
    if options.form:
        sys.stdout.write(json.dumps(measure(options.form, options.classes)))
        return
    figures: dict[str, dict[str, Any]] = {}
    for classes in CLASSES:
        figures[str(classes)] = {}
        for form in FORMS:
            if form == "all distances" and SAMPLES * classes * DIMENSIONS > MAX_DISTANCES:
                continue
            command = [sys.executable, "-m", "benchmarks.training.dimensions", "--form", form]
            done = subprocess.run(
                [*command, "--classes", str(classes)],
                capture_output=True,
                check=True,
                cwd=SOURCE_ROOT,
            )
            figures[str(classes)][form] = json.loads(done.stdout)
            print_status(f"{classes} classes, {form}: {figures[str(classes)][form]}")
    write_result(
        "dimensions",
        {
            "samples": SAMPLES,
            "dimensions": DIMENSIONS,
            "threads": torch.get_num_threads(),
            "classes": figures,
        },
    )


if __name__ == "__main__":
    main()
