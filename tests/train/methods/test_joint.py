from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_mean_is_over_present_training_features(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint")
    features, present, _ = batch
    method.finish(model, batch)
    for slot in range(3):
        assert method.mean[slot].allclose(features[present[:, slot], slot].mean(dim=0), atol=1e-6)


def test_mean_fill_replaces_absent_modalities(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint", fill="mean")
    method.finish(model, batch)
    text = torch.tensor([[False, False, True]])
    features = torch.randn(1, 3, model.feature_dim)
    filled = torch.cat([method.mean[:2], features[0, 2:]]).flatten()
    assert method.answer(model, features, text)[0][0].allclose(method.head(filled))


def test_zero_fill_uses_the_columns_of_present_modalities(make: Make) -> None:
    model, method = make("joint")
    features = torch.randn(1, 3, model.feature_dim)
    features[:, :2] = 0
    columns = method.head.weight[:, -model.feature_dim :]
    expected = columns @ features[0, 2] + method.head.bias
    mask = torch.tensor([[False, False, True]])
    assert method.answer(model, features, mask)[0][0].allclose(expected, atol=1e-6)


def test_only_the_mlp_head_learns_whether_two_modalities_match(make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (128, 3), generator=generator)
    features = (2.0 * signs - 1).unsqueeze(-1).expand(-1, -1, 6)
    rows = EncodedRows(features, torch.ones(128, 3).bool(), (signs[:, 0] == signs[:, 1]).long())
    accuracies = {}
    for head in ("linear", "mlp"):
        model, method = make("joint", head=head)
        optimizer = torch.optim.Adam(method.parameters(), 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            method.objective(model, rows, 0)["joint"].backward()
            optimizer.step()
        logits, _ = method.eval().answer(model, rows.features, rows.present)
        accuracies[head] = float((logits.argmax(dim=1) == rows.labels).float().mean())
    assert accuracies["linear"] < 0.8
    assert accuracies["mlp"] > 0.95


def test_joint_loss_reaches_every_encoder(make: Make, batch: EncodedRows) -> None:
    model, method = make("joint")
    features, present, labels = batch
    leaf = features.clone().requires_grad_()
    terms = method.objective(model, EncodedRows(leaf, present, labels), 0)
    assert list(terms) == ["joint"]
    terms["joint"].backward()
    assert leaf.grad is not None
    assert all(leaf.grad[present[:, slot], slot].any() for slot in range(3))
