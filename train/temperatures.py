"""Temperatures that divide logits, fitted by the negative log-likelihood, many at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from train.subset_blocks import SubsetBlock, segment_sum, subset_blocks

TEMPERATURES = (0.05, 20.0)
"""Bounds of a temperature."""
MIN_ROWS = 20
"""With fewer rows than this, a subset has no temperature and no share of its own."""
SAMPLE_ROWS = 200
"""The most rows of one subset from which the temperature of a size is fitted."""
_STEPS = 60
_PRECISION = 1e-4
"""The relative step below which a temperature has arrived; the last step is far more exact."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the best temperature for logits [N, K] and labels [N], see `fit_temperatures`."""
    return float(fit_temperatures(logits, labels, torch.zeros_like(labels), 1))


def fit_temperatures(logits: Tensor, labels: Tensor, segment: Tensor, count: int) -> Tensor:
    """Return the temperature of each segment that minimises its negative log-likelihood.

    The loss is convex in the inverse temperature. Newton's method therefore finds it, and a step
    that leaves what is left of the interval halves it instead.

    Args:
        logits: [R, K].
        labels: int64 [R].
        segment: int64 [R], the number of the segment of each row.
        count: The number of segments.

    Returns:
        [count], within `TEMPERATURES`; 1 for a segment whose logits are all equal.
    """
    # The largest logit of a row becomes 0, and a class is a row, because long rows are added fast.
    values = (logits - logits.amax(dim=1, keepdim=True)).T.contiguous()
    truth = values.gather(0, labels.unsqueeze(0)).squeeze(0)
    inverse = torch.ones(count, dtype=logits.dtype, device=logits.device)
    low, high = inverse / TEMPERATURES[1], inverse / TEMPERATURES[0]
    too_low = _slopes(values, truth, low, segment)[0] > 0
    too_high = _slopes(values, truth, high, segment)[0] < 0
    inverse = torch.where(too_low, low, torch.where(too_high, high, inverse))
    moving = ~(too_low | too_high)
    for _ in range(_STEPS):
        # Most segments arrive after a few steps; the rest should not pay for them.
        rows = moving[segment]
        if 2 * int(rows.sum()) < len(segment):
            values, truth, segment = values[:, rows], truth[rows], segment[rows]
        if not len(segment):
            break
        first, second = _slopes(values, truth, inverse, segment)
        low, high = torch.where(first < 0, inverse, low), torch.where(first > 0, inverse, high)
        step = inverse - first / second
        step = torch.where((step > low) & (step < high), step, (low * high).sqrt())
        step = torch.where(moving & (first != 0), step, inverse)
        moving = (step / inverse).log().abs() > _PRECISION
        inverse = step
    return 1 / inverse


def _slopes(
    values: Tensor, truth: Tensor, inverse: Tensor, segment: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first and second derivative of each segment's loss, sums over its rows.

    Args:
        values: Logits [K, R], at most 0.
        truth: Those of the true labels, [R].
        inverse: The inverse temperatures, [count].
        segment: int64 [R].
    """
    shares = (values * inverse[segment]).exp_()
    total = shares.sum(dim=0)
    mean = shares.mul_(values).sum(dim=0) / total
    variance = shares.mul_(values).sum(dim=0) / total - mean.square()
    count = len(inverse)
    return segment_sum(mean - truth, segment, count), segment_sum(variance, segment, count)


def fit_subset_temperatures(
    answer: Callable[[SubsetBlock], Tensor],
    present: Tensor,
    labels: Tensor,
    width: int,
    sizes: range,
) -> Tensor:
    """Return the best temperature of each subset, as far as its rows tell.

    A subset with fewer than `MIN_ROWS` rows would get the temperature of a few lucky or unlucky
    answers. It gets that of all subsets of its size, or of the next smaller size that has as many
    rows.

    Args:
        answer: Returns the logits [R, K] of a block.
        present: bool [N, M].
        labels: int64 [N].
        width: How many numbers `answer` computes with for one pair of a row and a subset.
        sizes: The numbers of modalities of the subsets that are fitted.

    Returns:
        [2 ** M subsets], numbered by `subset_index`; 1 for subsets of other sizes, and for all if
        no row has one that is fitted.
    """
    slots = present.shape[1]
    table = torch.ones(2**slots, device=present.device)
    own = torch.zeros(2**slots, dtype=torch.bool, device=present.device)
    for block in subset_blocks(present, width, sizes, fewest=MIN_ROWS):
        logits, truth = answer(block), labels[block.rows]
        table[block.subsets] = fit_temperatures(logits, truth, block.segment, len(block.subsets))
        own[block.subsets] = True
    numbers = torch.arange(2**slots, device=present.device)
    size_of = sum(numbers >> slot & 1 for slot in range(slots))
    temperature = 1.0
    for size in sizes:
        rare = (size_of == size) & ~own
        rows = int((present.sum(dim=1) >= size).sum())
        if rows >= MIN_ROWS or (rows and size == sizes[0]):
            blocks = list(subset_blocks(present, width, range(size, size + 1), most=SAMPLE_ROWS))
            logits = torch.cat([answer(block) for block in blocks])
            truth = torch.cat([labels[block.rows] for block in blocks])
            temperature = fit_temperature(logits, truth)
        table[rare] = temperature
    return table
