from __future__ import annotations

import pytest
import torch

from train.methods.qmf import fuse_by_energy, rank_loss

LABELS = torch.tensor([0, 0])


def test_weights_follow_the_energy_of_present_modalities() -> None:
    logits = torch.tensor([[[4.0, 0.0], [1.0, 0.0], [9.0, 0.0]]])
    present = torch.tensor([[True, True, False]])
    fused, weights = fuse_by_energy(logits, present)
    energy = logits[0].logsumexp(dim=-1)
    assert float(weights[0, 0]) == pytest.approx(float(energy[0] / (energy[0] + energy[1])))
    assert weights[0, 2] == 0
    assert float(fused[0, 0]) == pytest.approx(float(4 * weights[0, 0] + weights[0, 1]))


def test_confident_sample_with_lower_loss_costs_nothing() -> None:
    assert float(rank_loss(torch.tensor([[5.0, 0.0], [1.0, 0.0]]), LABELS)) == 0


def test_confident_sample_with_higher_loss_loses_confidence() -> None:
    logits = torch.tensor([[0.0, 5.0], [1.0, 0.0], [0.5, 0.0]], requires_grad=True)
    loss = rank_loss(logits, torch.tensor([0, 0, 0]))
    loss.backward()
    assert loss > 0
    assert logits.grad is not None
    assert float(logits.grad[0].sum()) >= 0
    assert float(logits.grad[1].sum()) < 0


def test_single_sample_has_no_rank_loss() -> None:
    logits = torch.randn(1, 3, requires_grad=True)
    rank_loss(logits, torch.tensor([1])).backward()
    assert logits.grad is not None
    assert not logits.grad.any()
