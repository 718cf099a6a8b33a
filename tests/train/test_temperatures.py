"""Temperatures: the minimum of the likelihood, many at once, and subsets with few rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.masks import subset_index
from train.subset_blocks import SubsetBlock
from train.temperatures import (
    MIN_ROWS,
    TEMPERATURES,
    fit_subset_temperatures,
    fit_temperature,
    fit_temperatures,
)

CLASSES = 5


def draw(rows: int, scale: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits [N, K] that should be divided by `scale`, and labels drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, CLASSES, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    return scale * logits, labels


class TestFit:
    @pytest.mark.parametrize("scale", [0.2, 1.0, 6.0])
    @pytest.mark.parametrize("rows", [5, 200])
    def test_temperature_minimises_the_likelihood(self, rows: int, scale: float) -> None:
        logits, labels = draw(rows, scale)

        def loss(log_temperature: float) -> float:
            scaled = logits.double() / float(np.exp(log_temperature))
            return float(functional.cross_entropy(scaled, labels))

        best = scipy.optimize.minimize_scalar(
            loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded"
        )
        assert np.log(fit_temperature(logits, labels)) == pytest.approx(best.x, abs=1e-3)

    def test_segments_have_the_temperatures_that_they_have_alone(self) -> None:
        parts = [draw(rows, scale, seed=rows) for rows, scale in [(30, 3.0), (200, 0.5), (7, 1.0)]]
        logits, labels = (torch.cat(values) for values in zip(*parts, strict=True))
        segment = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor([30, 200, 7]))
        together = fit_temperatures(logits, labels, segment, 3)
        assert together.tolist() == pytest.approx([fit_temperature(*p) for p in parts], rel=1e-4)

    def test_right_answers_only_give_the_lowest_temperature(self) -> None:
        logits = 0.1 * torch.eye(CLASSES)
        assert fit_temperature(logits, torch.arange(CLASSES)) == pytest.approx(TEMPERATURES[0])

    def test_wrong_answers_only_give_the_highest_temperature(self) -> None:
        logits = torch.eye(CLASSES)
        labels = (torch.arange(CLASSES) + 1) % CLASSES
        assert fit_temperature(logits, labels) == pytest.approx(TEMPERATURES[1])

    def test_flat_logits_keep_a_temperature_of_one(self) -> None:
        assert fit_temperature(torch.full((4, 3), 2.0), torch.tensor([0, 1, 2, 0])) == 1


def table_of(present: Tensor, scales: Tensor, sizes: range, seed: int = 0) -> Tensor:
    """Fit the subsets of rows whose logits should be divided by a number for each subset."""
    logits, labels = draw(len(present), 1.0, seed)

    def answer(block: SubsetBlock) -> Tensor:
        return logits[block.rows] * scales[subset_index(block.mask)].unsqueeze(1)

    return fit_subset_temperatures(answer, present, labels, CLASSES, sizes)


class TestSubsets:
    def test_each_subset_with_enough_rows_has_its_own_temperature(self) -> None:
        scales = torch.tensor([1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        present = torch.ones(400, 3, dtype=torch.bool)
        table = table_of(present, scales, range(1, 4))
        # All subsets have the same rows, so that the temperatures differ by the scales alone.
        ratios = (table[1:] / table[1]).tolist()
        assert ratios == pytest.approx((scales[1:] / scales[1]).tolist(), rel=1e-3)

    def test_subset_with_few_rows_takes_the_temperature_of_its_size(self) -> None:
        present = torch.ones(400, 3, dtype=torch.bool)
        present[MIN_ROWS - 1 :, 2] = False
        present[200:300, :2] = False
        present[200:300, 2] = True
        scales = torch.tensor([1.0, 1.0, 1.0, 3.0, 1.0, 50.0, 3.0, 1.0])
        table = table_of(present, scales, range(2, 4))
        # {0, 2} and {1, 2} have few rows, and would differ by a factor of 50 / 3.
        assert table[5] == table[6]
        assert table[3] == pytest.approx(3.0, rel=0.3)

    def test_size_with_few_rows_takes_the_temperature_of_the_next_smaller_size(self) -> None:
        present = torch.rand(400, 3, generator=torch.Generator().manual_seed(0)) < 0.5
        complete = present.all(dim=1).nonzero().flatten()
        present[complete[MIN_ROWS - 1 :], 0] = False
        sizes = torch.tensor([1.0, 1, 1, 2, 1, 2, 2, 0.1])
        table = table_of(present, sizes, range(2, 4))
        assert table[7] == pytest.approx(2.0, rel=0.3)

    def test_only_subset_of_a_size_is_fitted_to_few_rows(self) -> None:
        present = torch.ones(MIN_ROWS - 1, 2, dtype=torch.bool)
        assert table_of(present, torch.full((4,), 4.0), range(2, 3))[3] != 1

    def test_subset_without_any_rows_of_its_size_keeps_one(self) -> None:
        present = torch.eye(2, dtype=torch.bool).repeat(50, 1)
        assert table_of(present, torch.ones(4), range(2, 3)).tolist() == [1, 1, 1, 1]
