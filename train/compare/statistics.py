"""Statistics over seeds: means and deviations, and paired intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import stdtrit

CONFIDENCE_LEVEL = 0.95
ROUNDING_ERROR = 1e-6
"""Figures are computed with 32-bit floats."""


def all_or_none(values: Iterable[float | None]) -> list[float] | None:
    """Return the values, or None if there are none or one of them is missing."""
    listed = list(values)
    measured = [value for value in listed if value is not None]
    return measured if measured and len(measured) == len(listed) else None


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean, or None if `all_or_none` does."""
    measured = all_or_none(values)
    return float(np.mean(measured)) if measured else None


def mean_and_deviation(values: Iterable[float | None]) -> dict[str, Any]:
    """Return `{"mean", "std", "count"}` of the values that are not None.

    The standard deviation is the sample's (n - 1 in its denominator). The mean of no value and the
    deviation of a single value are None.
    """
    measured = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(measured)) if measured else None,
        "std": float(np.std(measured, ddof=1)) if len(measured) > 1 else None,
        "count": len(measured),
    }


def paired(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> dict[str, Any] | None:
    """Return ours less theirs, seed by seed, with a 95 % interval of the mean.

    A seed fixes the data order and the initial weights of both methods, so the difference varies
    less than its terms. The interval is d ± t(0.975, n - 1) s / sqrt(n), where d and s are the mean
    and the standard deviation of n differences (Student 1908, Biometrika 6, 1-25).

    Args:
        ours, theirs: Seed to value.

    Returns:
        `{"seeds", "mean", "low", "high"}`, or None without a common seed. The bounds are None for a
        single seed, and for equal differences, which the formula would always call significant.
    """
    differences = {
        seed: value - other
        for seed, value in sorted(ours.items())
        if value is not None and (other := theirs.get(seed)) is not None
    }
    if not differences:
        return None
    values = np.array(list(differences.values()))
    result: dict[str, Any] = {"seeds": list(differences), "mean": float(values.mean())}
    result |= {"low": None, "high": None}
    if len(values) > 1 and np.ptp(values) > ROUNDING_ERROR:
        quantile = stdtrit(len(values) - 1, (1 + CONFIDENCE_LEVEL) / 2)
        half = float(quantile * values.std(ddof=1) / np.sqrt(len(values)))
        result |= {"low": result["mean"] - half, "high": result["mean"] + half}
    return result
