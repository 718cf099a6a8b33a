from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_the_mean_is_of_the_training_features_that_there_are(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("joint")
    features, present, _ = batch
    method.finish(model, batch)
    for slot in range(3):
        assert method.mean[slot].allclose(features[present[:, slot], slot].mean(dim=0), atol=1e-6)


def test_mean_fill_puts_it_where_a_modality_is_absent(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint", fill="mean")
    method.finish(model, batch)
    text = torch.tensor([[False, False, True]])
    features = torch.randn(1, 3, model.feature_dim)
    filled = torch.cat([method.mean[:2], features[0, 2:]]).flatten()
    assert method.answer(model, features, text)[0][0].allclose(method.head(filled))


def test_zero_fill_answers_by_the_columns_of_what_is_present(make: Make) -> None:
    model, method = make("joint")
    features = torch.randn(1, 3, model.feature_dim)
    features[:, :2] = 0
    columns = method.head.weight[:, -model.feature_dim :]
    expected = columns @ features[0, 2] + method.head.bias
    mask = torch.tensor([[False, False, True]])
    assert method.answer(model, features, mask)[0][0].allclose(expected, atol=1e-6)


def test_one_loss_reaches_every_encoder(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint")
    features, present, labels = batch
    leaf = features.clone().requires_grad_()
    found = method.objective(model, EncodedRows(leaf, present, labels), 0)
    assert list(found) == ["joint"]
    found["joint"].backward()
    assert leaf.grad is not None
    assert all(leaf.grad[present[:, slot], slot].any() for slot in range(3))
