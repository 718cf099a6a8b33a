"""Masks of the modalities that are present, bool [N samples, M modalities]."""

from __future__ import annotations

import torch
from torch import Tensor


def subset_index(present: Tensor) -> Tensor:
    """Number each row's subset of modalities: the sum over the present m of 2 ** m.

    Args:
        present: bool [..., M modalities].

    Returns:
        int64 [...], in 0 (nothing) .. 2 ** M - 1 (everything).
    """
    powers = 2 ** torch.arange(present.shape[-1], device=present.device)
    return (present.to(torch.int64) * powers).sum(dim=-1)


def blank_absent(values: Tensor, present: Tensor) -> Tensor:
    """Replace absent slots of [N, M, ...] by 0, NaN included (0 times NaN would stay NaN)."""
    return torch.where(present.unsqueeze(-1), values, torch.zeros_like(values))
