"""Measure the size and the coverage of prediction sets over random splits of the digits.

Run `python -m benchmarks.accuracy.prediction_sets` after `make serve` has created `runs/digits`;
writes `benchmarks/results/prediction_sets.json` and `prediction_sets.md`. The validation and test
rows are pooled and split again. Each split calibrates the fusion, fits the limits and measures the
sets on the rest, with three scores: 1 - p in float32; p, which dimml uses; and -log p plus a
penalty per rank (RAPS, Angelopoulos et al. 2021, arXiv 2009.14193), the penalty chosen on the
calibration rows by the mean size.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.options import benchmark_parser
from benchmarks.results import Document, Spread, machine_line, write_result
from dimml.samples import is_absent, subset_name
from train import markdown
from train.calibration import EncodedRows, subset_rows
from train.conformal import conformal, conformal_rows
from train.data.splits import read_split
from train.readout import FusionReadout
from train.run import Run, load_run

COVERAGES = (0.9, 0.99)
CASES = {
    "1500 validation rows": (1500, 0.0),
    "400 validation rows": (400, 0.0),
    "600 validation rows, 1 % of all labels random": (600, 0.01),
}
"""Title to the number of validation rows, and the share of rows with a random label."""
SPLITS = 40
PENALTIES = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
DRAWS = 20
"""Number of bootstrap draws of the rows on which a penalty is chosen."""
BATCH_SIZE = 128
SCORES = ("1 - p, float32", "p", "rank penalty")

Sets = dict[str, Any]


def main() -> None:
    """Measure every case, and print the report."""
    options = benchmark_parser(__doc__, "run").parse_args()
    run = load_run(options.run)
    parts = [encode_split(run, split) for split in ("validation", "test")]
    rows = EncodedRows(*(torch.cat(values) for values in zip(*parts, strict=True)))
    cases = {title: measure_case(run, rows, *case) for title, case in CASES.items()}
    figures = {"splits": SPLITS, "cases": cases}
    sys.stdout.write(report(write_result("prediction_sets", figures, report)))


@torch.no_grad()
def encode_split(run: Run, split: str) -> EncodedRows:
    """Return the features of the rows of a split."""
    rows = read_split(run.recipe.source, split)
    features = torch.zeros(len(rows), len(run.kinds), run.model.feature_dim)
    present = torch.zeros(len(rows), len(run.kinds), dtype=torch.bool)
    for slot, (name, kind) in enumerate(run.kinds.items()):
        groups = defaultdict(list)
        for number, row in enumerate(rows):
            if not is_absent(row.sample.get(name)):
                arrays = kind.preprocess(kind.decode(row.sample[name]))
                groups[kind.bucket(arrays)].append((number, arrays))
        for group in groups.values():
            for start in range(0, len(group), BATCH_SIZE):
                numbers, items = zip(*group[start : start + BATCH_SIZE], strict=True)
                inputs = {k: torch.from_numpy(v) for k, v in kind.collate(items).items()}
                features[list(numbers), slot] = run.model.encoders[slot](**inputs)
                present[list(numbers), slot] = True
    labels = torch.tensor([run.labels.index(str(row.label)) for row in rows])
    return EncodedRows(features, present, labels)


def measure_case(run: Run, rows: EncodedRows, validation: int, noise: float) -> Document:
    """Return the figures by coverage, subset and score, over `SPLITS` random splits."""
    generator = torch.Generator().manual_seed(0)
    count = len(rows.labels)
    random = torch.randint(0, len(run.labels), (count,), generator=generator)
    noisy = torch.rand(count, generator=generator) < noise
    rows = rows._replace(labels=torch.where(noisy, random, rows.labels))
    measured: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed in range(SPLITS):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        parts = rows.select(order[:validation]), rows.select(order[validation:])
        for coverage, subset, score, sets in measure_split(run, *parts, seed):
            measured[str(coverage)][subset][score].append(sets)
    return {
        coverage: {
            subset: {
                score: {
                    "size": vars(Spread.of(s["size"] for s in sets)),
                    "coverage": mean(s["coverage"] for s in sets),
                }
                for score, sets in scores.items()
            }
            for subset, scores in subsets.items()
        }
        for coverage, subsets in measured.items()
    }


def measure_split(
    run: Run, validation: EncodedRows, test: EncodedRows, seed: int
) -> Iterator[tuple[float, str, str, Sets]]:
    """Yield coverage, subset, score, and the size and coverage of the sets of one split."""
    names, readout = run.model.modalities, FusionReadout(run.model.fusion)
    reserved = conformal_rows(len(validation.labels))
    fitting, held_out = validation.select(~reserved), validation.select(reserved)
    readout.calibrate(names, fitting)
    fits, holds, tests = (_answers(readout, names, part) for part in (fitting, held_out, test))
    random = np.random.default_rng(seed)
    for coverage in COVERAGES:
        limits = conformal(readout, names, held_out, coverage, len(run.labels))
        for subset, (probabilities, labels) in tests.items():
            held, held_labels = holds[subset]
            truth = held[np.arange(len(held)), held_labels]
            threshold = _threshold(1 - truth, coverage)
            old = 0.0 if threshold is None else 1 - threshold
            new = limits.min_probability(subset) or 0.0
            for score, limit in (("1 - p, float32", old), ("p", new)):
                sizes = (probabilities >= np.float32(limit)).sum(axis=1)
                yield coverage, subset, score, _sets(probabilities, labels, sizes)
            penalty = _choose_penalty(*fits[subset], len(held), coverage, random)
            threshold = _threshold(_true_scores(held, held_labels, penalty), coverage)
            sizes = _penalized_sizes(probabilities, penalty, threshold)
            yield coverage, subset, "rank penalty", _sets(probabilities, labels, sizes)


def _answers(
    readout: FusionReadout, names: tuple[str, ...], rows: EncodedRows
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        subset_name(subset): (_numpy(readout(rows.features[r], mask)[0]), _numpy(rows.labels[r]))
        for subset, r, mask in subset_rows(names, rows.present)
    }


def _numpy(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.numpy()
    return array


def _threshold(scores: np.ndarray, coverage: float) -> float | None:
    rank = int(np.ceil((len(scores) + 1) * coverage))
    return None if rank > len(scores) else float(np.sort(scores)[rank - 1])


def _ranked_scores(probabilities: np.ndarray, penalty: float) -> np.ndarray:
    """Return -log p plus the penalty per rank, most probable label first, float64 [N, K]."""
    ranked = -np.sort(-probabilities.astype(np.float64), axis=1)
    tiny = np.finfo(np.float32).tiny
    return -np.log(np.maximum(ranked, tiny)) + penalty * np.arange(ranked.shape[1])


def _ranks(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks: np.ndarray = (order == labels[:, None]).argmax(axis=1)
    return ranks


def _true_scores(probabilities: np.ndarray, labels: np.ndarray, penalty: float) -> np.ndarray:
    ranks = _ranks(probabilities, labels)
    return _ranked_scores(probabilities, penalty)[np.arange(len(labels)), ranks]


def _penalized_sizes(
    probabilities: np.ndarray, penalty: float, threshold: float | None
) -> np.ndarray:
    if threshold is None:
        return np.full(len(probabilities), probabilities.shape[1])
    in_set = _ranked_scores(probabilities, penalty) <= threshold + 1e-3
    sizes: np.ndarray = in_set.sum(axis=1)
    return sizes


def _choose_penalty(
    probabilities: np.ndarray,
    labels: np.ndarray,
    held_out: int,
    coverage: float,
    random: np.random.Generator,
) -> float:
    """Return the penalty with the smallest mean set, over thresholds of as many drawn rows."""
    draws = random.integers(0, len(labels), (DRAWS, held_out))

    def mean_size(penalty: float) -> float:
        truth = _true_scores(probabilities, labels, penalty)
        thresholds = [_threshold(truth[rows], coverage) for rows in draws]
        sizes = [_penalized_sizes(probabilities, penalty, t) for t in thresholds]
        return float(np.maximum(1, sizes).mean())

    return min(PENALTIES, key=mean_size)


def _sets(probabilities: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> Sets:
    sizes = np.maximum(1, sizes)
    covered = _ranks(probabilities, labels) < sizes
    return {"size": float(sizes.mean()), "coverage": float(covered.mean())}


def report(document: Document) -> str:
    """Return the figures as Markdown: mean set size and coverage, per case and coverage."""
    parts = [
        "# Prediction sets",
        machine_line(document["machine"]),
        f"Mean size of a set: median over {document['splits']} random splits (worst split); then "
        "the mean coverage in %. See the docstring of `benchmarks/accuracy/prediction_sets.py`.",
    ]
    for title, coverages in document["cases"].items():
        for coverage, subsets in coverages.items():
            rows = [(name, *map(_cell, _in_order(scores))) for name, scores in subsets.items()]
            table = markdown.table(("subset", *SCORES), rows, numbers=False)
            parts += [f"## {title}, coverage {coverage}", table]
    return "\n\n".join(parts) + "\n"


def _in_order(scores: Document) -> Sequence[Document]:
    return [scores[score] for score in SCORES]


def _cell(figures: Document) -> str:
    size = figures["size"]
    return f"{size['median']:.2f} ({size['high']:.2f}); {100 * figures['coverage']:.1f}"


if __name__ == "__main__":
    main()
