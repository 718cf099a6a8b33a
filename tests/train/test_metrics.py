from __future__ import annotations

from typing import Any

import pytest
import torch

from train.metrics import (
    expected_ece,
    pooled_reliability,
    prediction_sets,
    reliability,
    risk_coverage_area,
    scores,
)

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
LABELS = torch.tensor([0, 1, 1, 1])


def test_scores_are_accuracy_nll_and_ece() -> None:
    result = scores(PROBABILITIES, LABELS)
    assert result["accuracy"] == 0.75
    nll = -torch.tensor([0.9, 0.2, 0.7, 0.55]).log().mean()
    assert result["nll"] == pytest.approx(float(nll))
    assert result["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.45) / 4, abs=1e-6)


def test_risk_coverage_area_is_the_mean_risk_of_confident_answers() -> None:
    assert risk_coverage_area(PROBABILITIES, LABELS) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    )


def test_least_confident_error_costs_least() -> None:
    sure = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    assert risk_coverage_area(sure, torch.tensor([0, 0, 1, 1])) == pytest.approx(1 / 4 / 4)


def test_prediction_sets_are_never_empty() -> None:
    assert prediction_sets(PROBABILITIES, LABELS, 0.95) == {"set_coverage": 0.75, "set_size": 1.0}
    assert prediction_sets(PROBABILITIES, LABELS, 0.2) == {"set_coverage": 1.0, "set_size": 1.75}
    assert prediction_sets(PROBABILITIES, LABELS, None) == {"set_coverage": None, "set_size": None}


def test_reliability_counts_every_answer_once() -> None:
    certain = torch.tensor([[0.0, 1.0]])
    result = reliability(torch.cat([PROBABILITIES, certain]), torch.ones(5).long())
    assert sum(result["count"]) == 5
    assert result["count"][14] == 1
    assert result["accuracy"][14] == 1
    assert result["confidence"][8] == pytest.approx(0.55)
    assert result["accuracy"][0] is None
    assert {len(values) for values in result.values()} == {15}


def test_expected_ece_equals_the_mean_deviation_of_a_binomial() -> None:
    # One bin: E|k/n - p| = sqrt(2 p (1 - p) / (pi n)) of a normal, 0.0319 for n = 100, p = 0.8.
    result = expected_ece({"confidence": [None, 0.8], "count": [0, 100]})
    assert result == pytest.approx(0.0319, abs=0.004)
    assert result == expected_ece({"confidence": [None, 0.8], "count": [0, 100]})


def test_expected_ece_shrinks_with_samples() -> None:
    few, many = (expected_ece({"confidence": [0.5], "count": [n]}) for n in (50, 5000))
    assert few is not None
    assert many is not None
    assert many == pytest.approx(few / 10, rel=0.2)


@pytest.mark.parametrize("table", [{}, {"confidence": [None], "count": [0]}])
def test_no_samples_give_no_expected_ece(table: dict[str, Any]) -> None:
    assert expected_ece(table) is None


def test_reliability_bins_are_pooled_by_count() -> None:
    first = {"confidence": [None, 0.8], "accuracy": [None, 0.6], "count": [0, 10]}
    second = {"confidence": [0.1, 0.9], "accuracy": [0.0, 1.0], "count": [5, 30]}
    result = pooled_reliability([first, second])
    assert result["count"] == [5, 40]
    assert result["confidence"] == pytest.approx([0.1, 0.875])
    assert result["accuracy"] == pytest.approx([0.0, 0.9])
