"""Inputs of the losses, and the cross-entropy in loops."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NAN = float("nan")
NAMES = ("audio", "image", "text")
SAMPLES = 7

PRESENT = {
    "audio": torch.tensor([1, 1, 0, 1, 1, 0, 1], dtype=torch.bool),
    "image": torch.tensor([1, 0, 1, 1, 1, 0, 1], dtype=torch.bool),
    "text": torch.tensor([0, 0, 1, 1, 1, 1, 1], dtype=torch.bool),
}
EVERYWHERE = dict.fromkeys(NAMES, torch.ones(SAMPLES, dtype=torch.bool))


def random_values(names: tuple[str, ...], width: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(SAMPLES, width, generator=generator, dtype=torch.float64)
        for name in names
    }


def leaves(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone().requires_grad_() for name, value in values.items()}


def with_nan_where_absent(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: v.masked_fill(~PRESENT[name].unsqueeze(1), NAN) for name, v in values.items()}


def gradients(loss: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    grads = torch.autograd.grad(loss, list(values.values()), materialize_grads=True)
    return dict(zip(values, grads, strict=True))


def literal_cross_entropy(logits: Tensor, label: int) -> Tensor:
    return -torch.log(torch.exp(logits[label]) / sum(torch.exp(z) for z in logits))
