"""Split-conformal prediction sets: the smallest probability of a label in a set, per subset."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from dimml.bundle import Conformal
from dimml.samples import subset_name, subsets
from train.calibration import EncodedRows
from train.markdown import short_list
from train.subset_blocks import subset_blocks, subset_modalities

CONFORMAL_SHARE = 3
"""One validation row in this many is kept for the conformal limits."""
TOLERANCE = 1e-3
"""The relative difference by which a probability may fall below that of a conformal row.

Runtimes differ by about 1e-5 in a probability. Rows of equal content, such as one frequent word,
have equal probabilities, and without a tolerance this difference would decide about all of them.
"""


def conformal_rows(count: int) -> Tensor:
    """Return the validation rows that only the conformal limits may see, bool [count].

    The rows are drawn at random with a fixed seed, because a table may list its labels in a fixed
    order.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order % CONFORMAL_SHARE == 0


def conformal(
    answer: Callable[[Tensor, Tensor], Sequence[Any]],
    modalities: tuple[str, ...],
    held_out: EncodedRows,
    coverage: float,
    classes: int,
) -> Conformal:
    """Fit the smallest probability of a label in a prediction set, per subset.

    The score of a row is -log p(true label), and the threshold is the k-th smallest of n scores
    with k = ceil((n + 1) * coverage) (Angelopoulos and Bates, arXiv 2107.07511). The limit is
    therefore the k-th largest p. The limit is p itself: 1 - p rounds to 1 in float32 below
    p = 3e-8, while float32, float64 and JSON keep the digits of a small p.

    A set holds its label with a probability of at least `coverage`: if the n rows and a new row are
    exchangeable, and nothing else was fitted on the n rows, the score of the new row is among the k
    smallest of the n + 1 scores with a probability of at least k / (n + 1), and is then at most the
    threshold. Sets are nested in the limit, so the tolerance and the most probable label, which
    every set holds, only add labels. If k > n, no limit has this guarantee but 0: every label.

    Args:
        answer: A calibrated answer; its first result for features and a mask is the probabilities
            [n, K].
        modalities: Names in slot order.
        held_out: Rows that nothing else was fitted on.
        coverage: The share of sets that should hold the true label.
        classes: K.
    """
    limits = {}
    uncertified = {subset_name(subset): 0 for subset in subsets(modalities)}
    for number, truth in _true_probabilities(answer, held_out, classes).items():
        name, count = subset_name(subset_modalities(number, modalities)), len(truth)
        # The product is exact: 100 * 0.55 exceeds 55 in floating point.
        rank = math.ceil((count + 1) * _exact(coverage))
        if rank > count:
            uncertified[name] = count
            continue
        limits[name] = float(truth.sort(descending=True).values[rank - 1]) * (1 - TOLERANCE)
        del uncertified[name]
    return Conformal(coverage=coverage, min_probabilities=limits, uncertified=uncertified)


@torch.no_grad()
def _true_probabilities(
    answer: Callable[[Tensor, Tensor], Sequence[Any]], held_out: EncodedRows, classes: int
) -> dict[int, Tensor]:
    """Return the probability of the true label, for the rows of each subset by its number."""
    parts: dict[int, list[Tensor]] = {}
    for rows in held_out.blocks(classes):
        for block in subset_blocks(rows.present, max(rows.features[:1].numel(), classes)):
            probabilities = answer(rows.features[block.rows], block.mask)[0]
            truth = probabilities.gather(1, rows.labels[block.rows].unsqueeze(1)).double()
            each = truth.flatten().split(block.counts.tolist())
            for number, part in zip(block.subsets.tolist(), each, strict=True):
                parts.setdefault(number, []).append(part)
    return {number: torch.cat(pieces) for number, pieces in parts.items()}


def rows_needed(coverage: float) -> int:
    """Return the smallest n that certifies a coverage c.

    From ceil((n + 1) c) <= n follows n >= c / (1 - c).
    """
    exact = _exact(coverage)
    return math.ceil(exact / (1 - exact))


def uncertified_text(conformal: Conformal | None) -> str:
    """Return which subsets answer with every label, and how to mend this; "" if none do."""
    if conformal is None or not conformal.uncertified:
        return ""
    listed = short_list(f"{name} ({rows} rows)" for name, rows in conformal.uncertified.items())
    needed = rows_needed(conformal.coverage)
    return (
        f"prediction sets hold every label for {listed}: a coverage of {conformal.coverage:g} "
        f"needs {needed} reserved rows that have the modalities, about {CONFORMAL_SHARE * needed} "
        "rows of the validation split; add rows or lower `coverage`"
    )


def _exact(coverage: float) -> Fraction:
    """Return the decimal that a coverage was written as."""
    return Fraction(str(coverage))
