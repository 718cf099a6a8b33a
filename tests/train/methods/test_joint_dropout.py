from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_training_loses_modalities_and_answering_does_not(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint_dropout", rate=0.5)
    features, present, labels = batch
    leaf = features.clone().requires_grad_()
    method.objective(model, EncodedRows(leaf, present, labels), 0)["joint"].backward()
    assert leaf.grad is not None
    learns = leaf.grad.abs().sum(dim=2) > 0
    assert 0.3 < float(learns[present].float().mean()) < 0.8
    assert learns.any(dim=1).all()
    one, two = (method.answer(model, features.nan_to_num(), present)[0] for _ in range(2))
    assert one.equal(two)


def test_at_a_rate_of_0_it_is_joint_training(make: Make, batch: EncodedRows) -> None:
    losses = [
        method.objective(model, batch, 0)["joint"]
        for model, method in (make("joint"), make("joint_dropout", rate=0.0))
    ]
    assert losses[0].equal(losses[1])
    assert torch.isfinite(losses[0])
