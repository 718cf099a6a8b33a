"""Alternating unimodal adaptation (MLA).

Source: Zhang, Yoon, Bansal, Yao, "Multimodal Representation Learning by Alternating Unimodal
Adaptation", CVPR 2024, arXiv 2311.10707. The modalities take turns at one shared head g; in a
modality's turn the head may change only where the others do not look, so that it does not forget
them; at test time the present modalities are weighted by how little entropy they have:

    turn of m:  L_m = CE(g(f_m), y);   W <- W + dW P_m,   P_m = I - A (A'A + eps I)^-1 A'
    answer:     z = sum_m w_m g(f_m),  w = softmax over the present m of -H(softmax(g(f_m)))

A has the mean feature, over the batch, of each other modality as a column, followed by a 1 for the
bias. Simplified or ours: the paper accumulates P recursively over batches and modalities, here it
is of the batch alone, and exact; the step that the optimizer took is projected, not the gradient
(AdamW would turn it back); weights are per sample, never over a batch. Encoders share nothing, so
their steps are taken together after the turns, with the gradients that each got in its turn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.model import MultimodalModel
from train.methods.base import Method

RIDGE = 1e-6
"""eps, of the mean squared length of A's columns."""


class AlternatingAdaptation(Method):
    """See the module."""

    alternates = True

    def alternate(
        self,
        model: MultimodalModel,
        features: Tensor,
        present: Tensor,
        labels: Tensor,
        optimizer: torch.optim.Optimizer,
    ) -> dict[str, Tensor]:
        head = model.fusion.classifier
        leaf = blank_absent(features.detach(), present).requires_grad_()
        terms = {}
        for slot, name in enumerate(self.modalities):
            rows = present[:, slot]
            if not rows.any():
                continue
            optimizer.zero_grad()
            term = functional.cross_entropy(head(leaf[rows, slot]), labels[rows])
            term.backward()
            projected_step(head, other_means(leaf.detach(), present, slot), optimizer)
            terms[name] = term.detach()
        optimizer.zero_grad()
        if leaf.grad is not None and features.requires_grad:
            features.backward(blank_absent(leaf.grad, present))
        return terms

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        logits = model.fusion.classifier(features)
        weights = entropy_weights(logits, present)
        return (weights.unsqueeze(-1) * logits).sum(dim=1), weights


def entropy_weights(logits: Tensor, present: Tensor) -> Tensor:
    """Shares [N, M] of the present modalities: softmax of the negative entropy in nats.

    Args:
        logits: [N, M, K].
        present: bool [N, M].
    """
    entropy = -(logits.softmax(dim=-1) * logits.log_softmax(dim=-1)).sum(dim=-1)
    return (-entropy).masked_fill(~present, float("-inf")).softmax(dim=-1)


def other_means(features: Tensor, present: Tensor, slot: int) -> Tensor:
    """A: [D + 1, others], the mean features of the other modalities that the batch has."""
    counts = present.sum(dim=0)
    means = blank_absent(features, present).sum(dim=0) / counts.clamp_min(1).unsqueeze(-1)
    others = [m for m in range(present.shape[1]) if m != slot and counts[m]]
    return torch.cat([means[others], means.new_ones(len(others), 1)], dim=1).T


@torch.no_grad()
def projected_step(head: nn.Linear, means: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of the optimizer after which the head says the same of `means` as before it.

    Args:
        head: with gradients.
        means: [D + 1, others], see `other_means`.
        optimizer: whose other parameters have no gradient.
    """
    before = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1).clone()
    optimizer.step()
    moved = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1) - before
    after = before + moved - _onto(moved, means)
    head.weight.copy_(after[:, :-1])
    head.bias.copy_(after[:, -1])


def _onto(moved: Tensor, means: Tensor) -> Tensor:
    """The part of `moved` [K, D + 1] in the span of the columns of `means`."""
    if not means.shape[1]:
        return torch.zeros_like(moved)
    gram = (means.T @ means).double()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    inside: Tensor = torch.linalg.solve(gram, (moved @ means).double().T)
    return (means.double() @ inside).T.to(moved.dtype)
