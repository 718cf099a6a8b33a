"""Blocks of subsets: the same pairs of rows and subsets as a loop over the subsets gives."""

from __future__ import annotations

import pytest
import torch

from dimml.nn.masks import subset_index
from dimml.samples import subsets
from train.subset_blocks import BLOCK_ELEMENTS, subset_blocks, subset_modalities

NAMES = tuple(f"m{slot}" for slot in range(8))
PRESENT = torch.rand(60, len(NAMES), generator=torch.Generator().manual_seed(0)) < 0.6


@pytest.mark.parametrize("width", [1, BLOCK_ELEMENTS // 1000, BLOCK_ELEMENTS])
def test_blocks_have_every_subset_of_eight_modalities_with_its_rows(width: int) -> None:
    found = {}
    for block in subset_blocks(PRESENT, width):
        assert block.rows.numel() * width <= BLOCK_ELEMENTS or len(block.subsets) == 1
        assert subset_index(block.mask).equal(block.subsets[block.segment])
        parts = block.rows.split(block.counts.tolist())
        for number, rows in zip(block.subsets.tolist(), parts, strict=True):
            found[subset_modalities(number, NAMES)] = rows.tolist()
    expected = {}
    for subset in subsets(NAMES):
        slots = [NAMES.index(name) for name in subset]
        if rows := PRESENT[:, slots].all(dim=1).nonzero().flatten().tolist():
            expected[subset] = rows
    assert found == expected
    assert list(found) == list(expected)


def test_sizes_and_numbers_of_rows_limit_the_subsets() -> None:
    counts = {
        number: count
        for block in subset_blocks(PRESENT, 1, range(2, 4), fewest=15)
        for number, count in zip(block.subsets.tolist(), block.counts.tolist(), strict=True)
    }
    assert {number.bit_count() for number in counts} == {2, 3}
    assert min(counts.values()) >= 15


def test_sample_of_rows_is_spread_over_all_rows() -> None:
    present = torch.ones(100, 1, dtype=torch.bool)
    [block] = subset_blocks(present, 1, most=30)
    assert block.rows.tolist() == list(range(0, 100, 4))


def test_mean_is_that_of_each_subset() -> None:
    present = torch.tensor([[True, True], [True, False]])
    [block] = subset_blocks(present, 1)
    assert block.mean(torch.tensor([1.0, 2.0])[block.rows]).tolist() == [1.5, 1.0, 1.0]
