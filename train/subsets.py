"""Subsets of modalities as masks of slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dimml.samples import subsets


def subset_mask(subset: tuple[str, ...], modalities: tuple[str, ...], device: Any = None) -> Tensor:
    """Bool [M]: which slots a subset has."""
    return torch.tensor([name in subset for name in modalities], device=device)


def subset_rows(
    modalities: tuple[str, ...], present: Tensor
) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Each subset that rows have, those rows bool [N], and their mask bool [n, M].

    The rows that have at least the subset; the mask leaves them nothing else.
    """
    for subset in subsets(modalities):
        mask = subset_mask(subset, modalities, present.device)
        rows = present[:, mask].all(dim=1)
        if rows.any():
            yield subset, rows, mask.expand(int(rows.sum()), -1)


def drop_modalities(
    present: Tensor, rate: float, generator: torch.Generator | None = None
) -> Tensor:
    """Which of the present modalities stay, bool [N, M]; of each row with any, at least one."""
    kept = present & (torch.rand(present.shape, generator=generator).to(present.device) >= rate)
    scores = torch.rand(present.shape, generator=generator).to(present.device)
    last = scores.masked_fill(~present, -1.0).argmax(dim=1)
    one = functional.one_hot(last, present.shape[1]).bool() & present
    return torch.where(kept.any(dim=1, keepdim=True), kept, one)
