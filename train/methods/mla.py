"""Alternating unimodal adaptation (MLA).

Source: Zhang, Yoon, Bansal, Yao, "Multimodal Representation Learning by Alternating Unimodal
Adaptation", CVPR 2024, arXiv 2311.10707. The modalities take turns at one shared head g. The turn
of a modality changes the head only in directions that the other modalities do not use, so that the
head does not forget them. The answer gives present modalities with a low entropy a high weight:

    turn of m:  L_m = CE(g(f_m), y);   W <- W + dW P_m,   P_m = I - A (A'A + eps I)^-1 A'
    answer:     z = sum_m w_m g(f_m),  w = softmax over the present m of -H(softmax(g(f_m)))

A has one column per other modality: its mean feature over the batch, followed by a 1 for the bias.
Differences from the paper: the paper accumulates P recursively over batches and modalities, this
implementation computes P exactly from one batch. It projects the optimizer's step and not the
gradient, because AdamW would turn the gradient back. Weights are per sample, never per batch. The
encoders share nothing, so they step together after the turns, each with the gradient of its turn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dimml.nn.losses import mean_cross_entropy
from dimml.nn.masks import blank_absent
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Method

RIDGE = 1e-6
"""eps, relative to the mean squared length of A's columns."""


class AlternatingAdaptation(Method):
    """Alternating unimodal adaptation, see the module."""

    alternates = True

    def alternate(
        self, model: MultimodalModel, rows: EncodedRows, optimizer: torch.optim.Optimizer
    ) -> dict[str, Tensor]:
        head: Any = model.fusion.classifier
        leaf = blank_absent(rows.features.detach(), rows.present).requires_grad_()
        terms = {}
        for slot, name in enumerate(self.modalities):
            has = rows.present[:, slot]
            if not has.any():
                continue
            optimizer.zero_grad()
            term = mean_cross_entropy(head(leaf[has, slot]), rows.labels[has], self.class_weights)
            torch.autograd.backward(term)
            projected_step(head, other_means(leaf.detach(), rows.present, slot), optimizer)
            terms[name] = term.detach()
        optimizer.zero_grad()
        # The gradients of all turns have gathered in the leaf; now the encoders receive them.
        if leaf.grad is not None and rows.features.requires_grad:
            torch.autograd.backward(rows.features, blank_absent(leaf.grad, rows.present))
        return terms

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        logits = model.fusion.classifier(features)
        weights = entropy_weights(logits, present)
        return (weights.unsqueeze(-1) * logits).sum(dim=1), weights


def entropy_weights(logits: Tensor, present: Tensor) -> Tensor:
    """Return the shares [N, M] of the present modalities: softmax of the negative entropy in nats.

    Args:
        logits: [N, M, K].
        present: bool [N, M].
    """
    entropy = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)
    return (-entropy).masked_fill(~present, float("-inf")).softmax(dim=-1)


def other_means(features: Tensor, present: Tensor, slot: int) -> Tensor:
    """Return A: [D + 1, others], the mean features of the other modalities in the batch."""
    counts = present.sum(dim=0)
    means = blank_absent(features, present).sum(dim=0) / counts.clamp_min(1).unsqueeze(-1)
    others = [m for m in range(present.shape[1]) if m != slot and counts[m]]
    return torch.cat([means[others], means.new_ones(len(others), 1)], dim=1).T


@torch.no_grad()
def projected_step(head: nn.Linear, means: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step the optimizer, and undo the part of the step that changes the logits of `means`.

    Args:
        head: The shared head, with gradients.
        means: [D + 1, others], see `other_means`.
        optimizer: An optimizer whose other parameters have no gradient.
    """
    before = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1).clone()
    optimizer.step()
    moved = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1) - before
    after = before + moved - _project(moved, means)
    head.weight.copy_(after[:, :-1])
    head.bias.copy_(after[:, -1])


def _project(moved: Tensor, means: Tensor) -> Tensor:
    """Return the part of `moved` [K, D + 1] that lies in the span of the columns of `means`."""
    if not means.shape[1]:
        return torch.zeros_like(moved)
    gram = (means.T @ means).double()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    inside: Tensor = torch.linalg.solve(gram, (moved @ means).double().T)
    return (means.double() @ inside).T.to(moved.dtype)
