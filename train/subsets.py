"""Subsets of modalities as masks of slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

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
