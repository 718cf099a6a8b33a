"""Estimates over seeds: spreads, paired intervals, areas, and what calibration can measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
DRAWS = 200
ROUNDING = 1e-6
"""Figures are computed in 32 bits."""


def complete(values: Iterable[float | None]) -> list[float] | None:
    """The values, or None if there are none or one of them is missing."""
    found = list(values)
    kept = [value for value in found if value is not None]
    return kept if kept and len(kept) == len(found) else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None where `complete` is."""
    found = complete(values)
    return float(np.mean(found)) if found else None


def spread(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation (n - 1 in its denominator) of what is not None.

    Returns:
        `{"mean", "std", "count"}`; the mean of nothing and the deviation of one value are None.
    """
    found = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(found)) if found else None,
        "std": float(np.std(found, ddof=1)) if len(found) > 1 else None,
        "count": len(found),
    }


def paired(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> dict[str, Any] | None:
    """Ours less theirs, seed by seed, with a 95 % interval of the mean.

    A seed fixes the data order and the initial weights of both, so that the difference varies less
    than its terms. The interval is d ± t(0.975, n - 1) s / sqrt(n), where d and s are the mean and
    the standard deviation of n differences (Student 1908, Biometrika 6, 1-25).

    Args:
        ours: seed to value.
        theirs: seed to value.

    Returns:
        `{"seeds", "mean", "low", "high"}`; None for no common seed, no bounds for one, nor where
        all differences are the same up to rounding: then the formula would call anything settled.
    """
    differences = {
        seed: value - other
        for seed, value in sorted(ours.items())
        if value is not None and (other := theirs.get(seed)) is not None
    }
    if not differences:
        return None
    values = np.array(list(differences.values()))
    result = {"seeds": list(differences), "mean": float(values.mean()), "low": None, "high": None}
    if len(values) > 1 and np.ptp(values) > ROUNDING:
        quantile = stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)
        half = float(quantile * values.std(ddof=1) / np.sqrt(len(values)))
        result |= {"low": result["mean"] - half, "high": result["mean"] + half}
    return result


def curve_area(points: Mapping[float, float | None]) -> float | None:
    """Area under a curve by the trapezoid rule, divided by its range: its mean height.

    Args:
        points: abscissa to ordinate.

    Returns:
        None for fewer than two points or one without an ordinate.
    """
    abscissas = sorted(points)
    ordinates = complete(points[x] for x in abscissas)
    if ordinates is None or len(ordinates) < 2:
        return None
    return float(np.trapezoid(ordinates, abscissas) / (abscissas[-1] - abscissas[0]))


def expected_ece(reliability: Mapping[str, Sequence[Any]], draws: int = DRAWS) -> float | None:
    """The ECE that a perfectly calibrated classifier would measure, by simulation.

    A finite sample never measures 0. The labels are drawn again, each right with a probability
    equal to the mean confidence of its bin, and the ECE of each draw is taken: the sum over bins
    of n_b / n |right_b / n_b - confidence_b|. Of 200 draws, always from the same seed, the mean.
    A measured ECE is bad only as far as it is above this. (Consistency resampling: Bröcker and
    Smith 2007, Weather and Forecasting 22; Vaicenavicius et al. 2019, arXiv 1902.06977.)

    Args:
        reliability: "confidence" and "count" per bin, of one subset.
        draws: how many.
    """
    bins = [
        (confidence, int(count))
        for confidence, count in zip(
            reliability.get("confidence") or (), reliability.get("count") or (), strict=False
        )
        if count and confidence is not None
    ]
    if not bins:
        return None
    confidences = np.clip([confidence for confidence, _ in bins], 0.0, 1.0)
    counts = np.array([count for _, count in bins])
    right = np.random.default_rng(0).binomial(counts, confidences, (draws, len(counts)))
    gaps = np.abs(right / counts - confidences)
    return float((gaps @ counts).mean() / counts.sum())


def pooled_reliability(tables: Sequence[Mapping[str, Sequence[Any]]]) -> dict[str, list[Any]]:
    """The reliability bins of several seeds as of one: means weighted by the counts.

    Args:
        tables: "confidence", "accuracy" and "count" per bin, of one subset, per seed.
    """
    size = max((len(table.get("count") or ()) for table in tables), default=0)
    pooled: dict[str, list[Any]] = {"confidence": [], "accuracy": [], "count": []}
    for number in range(size):
        found = [entry for table in tables if (entry := _bin(table, number))]
        total = sum(count for _, _, count in found)
        pooled["count"].append(total)
        for place, name in enumerate(("confidence", "accuracy")):
            weighted = sum(entry[place] * entry[2] for entry in found)
            pooled[name].append(weighted / total if total else None)
    return pooled


def _bin(table: Mapping[str, Sequence[Any]], number: int) -> tuple[float, float, int] | None:
    """Confidence, accuracy and count of a bin; None if it is empty."""
    names = ("confidence", "accuracy", "count")
    columns = [table.get(name) or () for name in names]
    if any(number >= len(column) or column[number] is None for column in columns):
        return None
    confidence, accuracy, count = (column[number] for column in columns)
    return (confidence, accuracy, count) if count else None
