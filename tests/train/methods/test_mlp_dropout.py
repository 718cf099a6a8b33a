from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_hidden_units_drop_out_in_training_only(make: Make, batch: EncodedRows) -> None:
    model, method = make("mlp_dropout", rate=0.0)
    losses = [method.objective(model, batch, 0)["joint"] for _ in range(2)]
    assert not losses[0].equal(losses[1])
    method.eval()
    losses = [method.objective(model, batch, 0)["joint"] for _ in range(2)]
    assert losses[0].equal(losses[1])


def test_training_drops_modalities(make: Make, batch: EncodedRows) -> None:
    model, method = make("mlp_dropout", rate=0.5)
    leaf = batch.features.clone().requires_grad_()
    method.objective(model, batch._replace(features=leaf), 0)["joint"].backward()
    assert leaf.grad is not None
    learns = leaf.grad.abs().sum(dim=2) > 0
    assert 0.3 < float(learns[batch.present].float().mean()) < 0.8


def test_linear_head_equals_joint_dropout(make: Make, batch: EncodedRows) -> None:
    losses = []
    for name, options in (("joint_dropout", {}), ("mlp_dropout", {"head": "linear"})):
        model, method = make(name, **options)
        torch.manual_seed(1)
        losses.append(method.objective(model, batch, 0)["joint"])
    assert losses[0].equal(losses[1])
