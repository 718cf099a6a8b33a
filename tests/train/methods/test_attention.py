from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_training_drops_modalities(make: Make, batch: EncodedRows) -> None:
    model, method = make("attention", rate=0.5)
    leaf = batch.features.clone().requires_grad_()
    method.objective(model, batch._replace(features=leaf), 0)["joint"].backward()
    assert leaf.grad is not None
    learns = leaf.grad.abs().sum(dim=2) > 0
    assert 0.3 < float(learns[batch.present].float().mean()) < 0.8
    assert learns.any(dim=1).all()


def test_token_of_an_absent_modality_changes_the_answer(make: Make, batch: EncodedRows) -> None:
    model, method = make("attention")
    method.eval()
    features, present = batch.features.nan_to_num(), batch.present
    before, _ = method.answer(model, features, present)
    with torch.no_grad():
        method.missing.add_(torch.randn(method.missing.shape))
    after, _ = method.answer(model, features, present)
    full = present.all(dim=1)
    assert before[full].equal(after[full])
    assert not before[~full].isclose(after[~full]).all(dim=1).any()


def test_answer_depends_on_which_modality_is_absent(make: Make) -> None:
    model, method = make("attention")
    method.eval()
    with torch.no_grad():
        for projection in method.projections[1:]:
            projection.load_state_dict(method.projections[0].state_dict())
    same = torch.randn(1, 1, model.feature_dim).expand(2, 3, -1)
    present = torch.tensor([[False, True, True], [True, True, False]])
    logits, _ = method.answer(model, same, present)
    assert not logits[0].allclose(logits[1])


def test_width_must_fit_the_attention_heads(make: Make) -> None:
    with pytest.raises(pydantic.ValidationError, match="multiple of 4"):
        make("attention", width=66)
