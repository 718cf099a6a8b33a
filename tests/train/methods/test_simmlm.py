from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from train.calibration import EncodedRows
from train.methods.simmlm import gate_weights, nested_subsets

Make = Callable[..., Any]
PRESENT = torch.tensor([[True, True, True], [True, False, True], [False, True, False]] * 200)


def test_weights_are_a_softmax_over_present_modalities() -> None:
    weights = gate_weights(torch.tensor([[1.0, 9.0, 0.0]]), torch.tensor([[True, False, True]]))
    expected = torch.tensor([1.0, 0.0]).softmax(dim=0)
    assert weights[0, [0, 2]].allclose(expected)
    assert weights[0, 1] == 0


def test_subsets_are_nested_and_differ_where_a_row_has_two_modalities() -> None:
    torch.manual_seed(0)
    more, fewer = nested_subsets(PRESENT)
    assert not (more & ~PRESENT).any()
    assert not (fewer & ~more).any()
    assert fewer.any(dim=1).all()
    assert ((more != fewer).any(dim=1) == (PRESENT.sum(dim=1) > 1)).all()
    # A row with three modalities draws each pair of sizes, and each single modality.
    sizes = torch.stack([more[::3].sum(dim=1), fewer[::3].sum(dim=1)], dim=1)
    assert sizes.unique(dim=0).tolist() == [[2, 1], [3, 1], [3, 2]]
    assert len(fewer[::3].unique(dim=0)) == 6


def test_first_stage_trains_the_experts_and_the_second_the_gate(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("simmlm", independent=0.5)
    epochs = method.training_config.epochs
    first = method.objective(model, batch, epochs // 2 - 1)
    assert list(first) == ["isolated"]
    first["isolated"].backward()
    assert method.heads.weight.grad.any()
    assert method.gate[-1].weight.grad is None
    second = method.objective(model, batch, epochs // 2)
    assert list(second) == ["more", "fewer", "rank"]
    second["more"].backward()
    assert method.gate[-1].weight.grad.any()


@pytest.mark.parametrize("harmful", [False, True])
def test_rank_loss_is_the_excess_of_the_larger_subset(make: Make, harmful: bool) -> None:
    model, method = make("simmlm", independent=0.0, rank=1.0)
    with torch.no_grad():
        method.heads.weight.zero_()
        method.heads.bias.zero_()
        # The first modality favours the label by 4, and the second the label or another class.
        method.heads.weight[0, 0, 0] = 4.0
        method.heads.weight[1, int(harmful), 0] = 4.0
    features = torch.ones(200, 3, model.feature_dim)
    present = torch.tensor([True, True, False]).expand(200, -1)
    labels = torch.zeros(200, dtype=torch.int64)
    torch.manual_seed(0)
    losses = method.objective(model, EncodedRows(features, present, labels), 0)
    terms = {name: value.item() for name, value in losses.items()}
    torch.manual_seed(0)
    subsets = nested_subsets(present)
    more, fewer = (
        functional.cross_entropy(method.answer(model, features, kept)[0], labels, reduction="none")
        for kept in subsets
    )
    assert terms["more"] == pytest.approx(more.mean().item(), rel=1e-5)
    assert terms["fewer"] == pytest.approx(fewer.mean().item(), rel=1e-5)
    assert terms["rank"] == pytest.approx((more - fewer).relu().mean().item(), abs=1e-5)
    # Half of the smaller subsets are the first modality alone, whose loss the second one raises.
    assert (terms["rank"] > 0.1) == harmful


def test_untrained_gate_averages_present_modalities(make: Make, batch: EncodedRows) -> None:
    model, method = make("simmlm")
    features, present = batch.features.nan_to_num(), batch.present
    _, weights = method.answer(model, features, present)
    assert weights.allclose(present / present.sum(dim=1, keepdim=True))
