"""Measurements of probabilities against labels, each with its formula and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

ECE_DRAWS = 200
BINS = 15
"""Number of bins of confidence, equal in width."""


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, NLL in nats, and ECE (Guo et al. 2017, arXiv 1706.04599).

    Args:
        probabilities: [N, K].
        labels: int64 [N].
    """
    classes = probabilities.shape[1]
    # torchmetrics has an extra, sixteenth bin for a confidence of exactly 1.
    below_one = probabilities.clamp_max(1 - 1e-7)
    return {
        "accuracy": float(multiclass_accuracy(probabilities, labels, classes, average="micro")),
        "nll": float(functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels)),
        "ece": float(multiclass_calibration_error(below_one, labels, classes, BINS)),
    }


def risk_coverage_area(probabilities: Tensor, labels: Tensor) -> float:
    """Return the mean error rate among the n most confident answers, over n = 1 .. N.

    Source: AURC, Geifman, Uziel, El-Yaniv, ICLR 2019, arXiv 1805.08206. Lower is
    better. Answers of equal confidence keep their order.

    Args:
        probabilities: [N, K].
        labels: int64 [N].
    """
    confidence, answers = probabilities.max(dim=1)
    wrong = (answers != labels)[confidence.argsort(descending=True, stable=True)].double()
    return float((wrong.cumsum(dim=0) / torch.arange(1, len(wrong) + 1)).mean())


def curve_area(points: Mapping[float, float | None]) -> float | None:
    """Return the area under a curve by the trapezoid rule, divided by its range: its mean height.

    Args:
        points: Abscissa to ordinate. With fewer than two points, or a point without an ordinate,
            the area is None.
    """
    abscissas = sorted(points)
    ordinates = [y for x in abscissas if (y := points[x]) is not None]
    if len(points) < 2 or len(ordinates) < len(points):
        return None
    return float(np.trapezoid(ordinates, abscissas) / (abscissas[-1] - abscissas[0]))


def prediction_sets(
    probabilities: Tensor, labels: Tensor, min_probability: float | None
) -> dict[str, float | None]:
    """Return how often the sets hold the true label, and how many labels they hold on average.

    A set holds the labels with p >= min_probability, and always the most probable label.

    Args:
        probabilities: [N, K].
        labels: int64 [N].
        min_probability: The limit of the subset, see `Conformal`; if None, nothing is measured.
    """
    if min_probability is None:
        return {"set_coverage": None, "set_size": None}
    sets = probabilities >= min_probability
    sets = sets | functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).bool()
    return {
        "set_coverage": float(sets[torch.arange(len(labels)), labels].double().mean()),
        "set_size": float(sets.sum(dim=1).double().mean()),
    }


def reliability(probabilities: Tensor, labels: Tensor) -> dict[str, list[Any]]:
    """Return mean confidence, accuracy and count per bin of confidence; None for an empty bin.

    Args:
        probabilities: [N, K].
        labels: int64 [N].
    """
    confidence, answers = probabilities.double().max(dim=1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    counts = bins.bincount(minlength=BINS)
    means = [
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, bins, values) / counts
        for values in (confidence, (answers == labels).double())
    ]
    confidences, accuracies = (
        [float(v) if n else None for v, n in zip(mean, counts, strict=True)] for mean in means
    )
    return {"confidence": confidences, "accuracy": accuracies, "count": counts.tolist()}


def expected_ece(reliability: Mapping[str, Sequence[Any]], draws: int = ECE_DRAWS) -> float | None:
    """Simulate the ECE that a perfectly calibrated classifier would measure on as many samples.

    A finite sample never measures 0, so a measured ECE is bad only as far as it exceeds this value.
    The labels are drawn again, each right with the mean confidence of its bin as its probability,
    and the ECE of each draw is the sum over bins of n_b / n |right_b / n_b - confidence_b|. The
    result is the mean of the draws, always from the same seed. (Consistency resampling: Bröcker and
    Smith 2007, Weather and Forecasting 22; Vaicenavicius et al. 2019, arXiv 1902.06977.)

    Args:
        reliability: "confidence" and "count" per bin, of one subset.
        draws: Number of simulated samples.
    """
    columns = (reliability.get("confidence") or (), reliability.get("count") or ())
    bins = [(c, n) for c, n in zip(*columns, strict=False) if n and c is not None]
    if not bins:
        return None
    confidences = np.clip([confidence for confidence, _ in bins], 0.0, 1.0)
    counts = np.array([int(count) for _, count in bins])
    right = np.random.default_rng(0).binomial(counts, confidences, (draws, len(counts)))
    gaps = np.abs(right / counts - confidences)
    return float((gaps @ counts).mean() / counts.sum())


def pooled_reliability(tables: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """Pool the reliability bins of several seeds: means weighted by the counts.

    Args:
        tables: "confidence", "accuracy" and "count" per bin, of one subset, one table per seed.
    """
    columns = ("confidence", "accuracy", "count")
    seeds = [
        list(zip(*(table.get(name) or () for name in columns), strict=False)) for table in tables
    ]
    pooled: dict[str, list[Any]] = {name: [] for name in columns}
    for number in range(max(map(len, seeds), default=0)):
        bins = [bins[number] for bins in seeds if number < len(bins) and None not in bins[number]]
        total = sum(count for *_, count in bins)
        for place, name in enumerate(columns[:2]):
            weighted = sum(one[place] * one[2] for one in bins)
            pooled[name].append(weighted / total if total else None)
        pooled["count"].append(total)
    return pooled
