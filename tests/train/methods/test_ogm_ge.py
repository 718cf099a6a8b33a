from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from train.calibration import EncodedRows
from train.methods.ogm_ge import coefficients

Make = Callable[..., Any]


def contributions(strengths: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [20, M, 4] that favour the label by a strength each, present, and labels."""
    labels = torch.arange(20) % 4
    logits = torch.tensor(strengths).view(1, -1, 1) * torch.eye(4)[labels].unsqueeze(1)
    return logits, torch.ones(20, len(strengths), dtype=torch.bool), labels


def test_only_the_leading_modality_is_slowed_in_proportion_to_its_lead() -> None:
    near = coefficients(*contributions([1.0, 0.5]), alpha=0.5)
    far = coefficients(*contributions([5.0, 0.5]), alpha=0.5)
    assert far[0] < near[0] < 1
    assert near[1] == far[1] == 1


def test_coefficient_follows_the_formula() -> None:
    logits, present, labels = contributions([3.0, 1.0, 0.0])
    scores = [float(s.exp() / (s.exp() + 3)) for s in torch.tensor([3.0, 1.0, 0.0])]
    ratio = scores[0] / ((scores[1] + scores[2]) / 2)
    expected = 1 - float(torch.tanh(torch.tensor(0.3 * ratio)))
    assert coefficients(logits, present, labels, 0.3)[0] == pytest.approx(expected)


def test_modality_without_others_is_not_slowed() -> None:
    logits, present, labels = contributions([3.0, 1.0])
    present[:, 1] = False
    assert coefficients(logits, present, labels, 0.3) == [1.0, 1.0]


@pytest.mark.parametrize("noise", [False, True])
def test_gradient_of_the_stronger_encoder_shrinks(make: Make, noise: bool) -> None:
    model, method = make("ogm_ge", alpha=0.8, noise=noise)
    logits, present, labels = contributions([9.0, 0.5, 0.5])
    torch.nn.init.zeros_(method.head.weight)
    with torch.no_grad():
        method.head.weight.view(4, 3, -1)[:, :, :4] = torch.eye(4).unsqueeze(1)
        method.head.bias.zero_()
    features = torch.cat([logits, torch.zeros(20, 3, 2)], dim=2)
    method.objective(model, EncodedRows(features, present, labels), 0)
    for parameter in model.encoders.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.encoders[1].layers.weight.grad[0, 0] = 3.0
    method.adjust_gradients(model)
    assert float(model.encoders[0].layers.weight.grad.mean()) < 0.3
    # Equal gradients have no deviation, so the noise adds nothing.
    assert model.encoders[2].layers.weight.grad.eq(1).all()
    assert model.encoders[1].layers.weight.grad.ne(1).sum() == (30 if noise else 1)
    assert model.encoders[0].layers.bias.grad.eq(1).all()


def test_only_a_linear_head_is_accepted(make: Make) -> None:
    with pytest.raises(pydantic.ValidationError, match="head"):
        make("ogm_ge", head="mlp")
