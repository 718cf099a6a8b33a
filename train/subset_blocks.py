"""Rows by subset of modalities, many subsets in one tensor: there are 2 ** M - 1 of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from dimml.nn.masks import subset_index

BLOCK_ELEMENTS = 2**22
"""About how many numbers the largest tensor of a block has: 16 MiB in float32."""


class SubsetBlock(NamedTuple):
    """Pairs of a row and a subset of its modalities, all pairs of some subsets, subset by subset.

    Attributes:
        subsets: int64 [G subsets], numbered by `subset_index`.
        counts: int64 [G], the pairs of each subset, at least one.
        rows: int64 [R pairs], the number of each pair's row.
        segment: int64 [R], the position of each pair's subset in `subsets`.
        mask: bool [R, M], the slots of each pair's subset.
    """

    subsets: Tensor
    counts: Tensor
    rows: Tensor
    segment: Tensor
    mask: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the values [R] of each subset's pairs, [G]."""
        return segment_sum(values, self.segment, len(self.subsets)) / self.counts


def segment_sum(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Return the sum of the values [R] of each of `count` segments; `segment` is int64 [R]."""
    return values.new_zeros(count).index_add_(0, segment, values)


def subset_modalities(number: int, modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the modalities of a subset that `subset_index` numbers."""
    return tuple(name for slot, name in enumerate(modalities) if number >> slot & 1)


def subset_blocks(
    present: Tensor,
    width: int,
    sizes: range | None = None,
    fewest: int = 1,
    most: int | None = None,
) -> Iterator[SubsetBlock]:
    """Yield the subsets that occur with the rows that have at least them, smallest first.

    One block has as many subsets as fit into `BLOCK_ELEMENTS`, and at least one.

    Args:
        present: bool [N, M].
        width: How many numbers the caller computes with for one pair, which limits the blocks.
        sizes: The numbers of modalities of the subsets; all by default.
        fewest: Subsets with fewer rows are left out.
        most: The largest number of rows of a subset, spread over all its rows; None for all.
    """
    index = subset_index(present)
    parts: list[tuple[int, Tensor]] = []
    pairs = 0
    for number in _subset_numbers(present.shape[1], sizes):
        rows = ((index & number) == number).nonzero().flatten()
        if len(rows) < fewest:
            continue
        if most is not None:
            rows = rows[:: -(-len(rows) // most)]
        if parts and (pairs + len(rows)) * width > BLOCK_ELEMENTS:
            yield _block(parts, present.shape[1])
            parts, pairs = [], 0
        parts.append((number, rows))
        pairs += len(rows)
    if parts:
        yield _block(parts, present.shape[1])


def _subset_numbers(slots: int, sizes: range | None) -> Iterator[int]:
    """Yield the number of every non-empty subset, in the order of `dimml.samples.subsets`."""
    for size in range(1, slots + 1) if sizes is None else sizes:
        for chosen in combinations(range(slots), size):
            yield sum(1 << slot for slot in chosen)


def _block(parts: list[tuple[int, Tensor]], slots: int) -> SubsetBlock:
    device = parts[0][1].device
    subsets = torch.tensor([number for number, _ in parts], device=device)
    counts = torch.tensor([len(rows) for _, rows in parts], device=device)
    segment = torch.arange(len(parts), device=device).repeat_interleave(counts)
    mask = (subsets.unsqueeze(1) >> torch.arange(slots, device=device) & 1).bool()
    rows = torch.cat([rows for _, rows in parts])
    return SubsetBlock(subsets, counts, rows, segment, mask[segment])
