"""The first sentences of a report, in words that need no knowledge of statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from train.shown_subsets import MANY_MODALITIES

FEW_SAMPLES = 50
"""With fewer samples, a report says that they are too few to judge by."""
SURE = 0.9
"""The confidence above which an answer counts as sure."""
CALIBRATION_GAP = 0.03
"""An ECE this far above that of a perfectly calibrated classifier is worth a warning."""
SMALL_SPREAD = 0.02
"""Below this difference of accuracies, it hardly matters which inputs there are."""


def of_100(share: float) -> str:
    """Return a share of 0..1 as a count of 100, which does not round to none or to all."""
    if share in (0, 1):
        return "all 100" if share else "none"
    if not 0.005 <= share < 0.995:
        return "more than 99" if share > 0.5 else "fewer than 1"
    return f"{100 * share:.0f}"


def opening(name: str, summary: Mapping[str, Any]) -> list[str]:
    """Return what a classifier gets right, what missing inputs cost, and what its confidence tells.

    Args:
        name: What to call the classifier.
        summary: `samples`, `accuracy` and `confidence` (means over them), `frequent` (the most
            frequent label and its `share`), `sure` (the share of the answers that are sure and
            their `accuracy`), `ece` and `expected_ece`; all from everything that a sample has. And
            `subsets`, subset to accuracy, without those of too few samples, and `modalities`, their
            number.
    """
    missing = _missing(summary["subsets"], summary.get("modalities", 0))
    if summary["samples"] < FEW_SAMPLES:
        missing = f"As far as so few samples tell: {missing}"
    return [_right(name, summary), missing, _confidence(summary)]


def _right(name: str, summary: Mapping[str, Any]) -> str:
    samples, accuracy, frequent = summary["samples"], summary["accuracy"], summary["frequent"]
    if samples < FEW_SAMPLES:
        return (
            f"{name} labels {round(accuracy * samples)} of {samples} samples correctly, but so few "
            "samples are not enough to judge it by."
        )
    # Half of Wilson's 95 % interval, which also holds near 0 and 1.
    spread = math.sqrt(accuracy * (1 - accuracy) / samples + (0.98 / samples) ** 2)
    margin = 1.96 * spread / (1 + 1.96**2 / samples)
    baseline = f"always answering “{frequent['label']}”, the most frequent label,"
    compared = (
        f"{baseline} would be right for {of_100(frequent['share'])}"
        if accuracy > frequent["share"] + margin
        else f"that is no better than {baseline} which is right for {of_100(frequent['share'])}"
    )
    return (
        f"Of 100 samples, {name} labels {of_100(accuracy)} correctly (give or take "
        f"{math.ceil(100 * margin)}, because {samples:,} samples were measured); {compared}."
    )


def _missing(subsets: Mapping[str, float], modalities: int) -> str:
    best, worst = max(subsets, key=subsets.__getitem__), min(subsets, key=subsets.__getitem__)
    best_inputs, worst_inputs = _inputs(best, modalities), _inputs(worst, modalities)
    if len(subsets) == 1:
        return (
            f"All samples have the same input, {best_inputs}, so nothing is known about what "
            "happens when an input is missing."
        )
    best_share, worst_share = (of_100(subsets[name]) for name in (best, worst))
    if subsets[best] - subsets[worst] < SMALL_SPREAD:
        return (
            "It hardly matters which inputs a sample has: with the worst choice "
            f"({worst_inputs}), {worst_share} of 100 are right, with the best "
            f"({best_inputs}), {best_share}."
        )
    alone = "" if "+" in worst else " alone"
    return (
        f"When inputs are missing, it still answers: with {best_inputs}, it is right for "
        f"{best_share} of 100, and in the worst case, with {worst_inputs}{alone}, for "
        f"{worst_share}."
    )


def _confidence(summary: Mapping[str, Any]) -> str:
    if summary["samples"] < FEW_SAMPLES:
        return "Whether its confidence can be trusted cannot be told from so few samples."
    claimed, accuracy, sure = summary["confidence"], summary["accuracy"], summary["sure"]
    average = (
        f"on average it claims to be {100 * claimed:.0f} % sure, and it is right for "
        f"{of_100(accuracy)} of 100"
    )
    if summary["ece"] <= summary["expected_ece"] + CALIBRATION_GAP:
        verdict = "Its confidence can be trusted"
    elif abs(claimed - accuracy) < CALIBRATION_GAP:
        verdict = "Its confidence is right on average, but not for each level of it"
    elif claimed > accuracy:
        verdict = "It is surer of itself than it should be"
    else:
        verdict = "It is less sure of itself than it could be"
    if not sure["share"]:
        return f"{verdict}: {average}; it is never more than {100 * SURE:.0f} % sure."
    return (
        f"{verdict}: {average}; where it claims {100 * SURE:.0f} % or more (for "
        f"{of_100(sure['share'])} of 100), it is right for {of_100(sure['accuracy'])} of 100."
    )


def _inputs(subset: str, modalities: int) -> str:
    """Return the name of a subset in words; `modalities` is the number of all."""
    *others, last = subset.split("+")
    if len(others) + 1 == modalities >= MANY_MODALITIES:
        return f"all {modalities} inputs"
    return f"{', '.join(others)} and {last}" if others else last
