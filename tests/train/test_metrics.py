from __future__ import annotations

import pytest
import torch

from train.metrics import prediction_sets, reliability, risk_coverage_area, scores

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
LABELS = torch.tensor([0, 1, 1, 1])


def test_scores() -> None:
    found = scores(PROBABILITIES, LABELS)
    assert found["accuracy"] == 0.75
    nll = -torch.tensor([0.9, 0.2, 0.7, 0.55]).log().mean()
    assert found["nll"] == pytest.approx(float(nll))
    assert found["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.45) / 4, abs=1e-6)


def test_the_risk_coverage_area_is_the_mean_risk_of_the_most_confident() -> None:
    assert risk_coverage_area(PROBABILITIES, LABELS) == pytest.approx(
        (0 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    )


def test_an_error_costs_less_where_it_is_the_least_confident() -> None:
    sure = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    assert risk_coverage_area(sure, torch.tensor([0, 0, 1, 1])) == pytest.approx(1 / 4 / 4)


def test_sets_are_never_empty_and_no_threshold_says_nothing() -> None:
    assert prediction_sets(PROBABILITIES, LABELS, 0.05) == {"set_coverage": 0.75, "set_size": 1.0}
    assert prediction_sets(PROBABILITIES, LABELS, 0.8) == {"set_coverage": 1.0, "set_size": 1.75}
    assert prediction_sets(PROBABILITIES, LABELS, None) == {"set_coverage": None, "set_size": None}


def test_reliability_counts_every_answer_once() -> None:
    certain = torch.tensor([[0.0, 1.0]])
    found = reliability(torch.cat([PROBABILITIES, certain]), torch.ones(5).long())
    assert sum(found["count"]) == 5
    assert found["count"][14] == 1
    assert found["accuracy"][14] == 1
    assert found["confidence"][8] == pytest.approx(0.55)
    assert found["accuracy"][0] is None
    assert {len(values) for values in found.values()} == {15}
