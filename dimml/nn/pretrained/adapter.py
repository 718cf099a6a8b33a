"""The head of a pretrained encoder: from the features of its backbone to the shared D features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

AdapterName = Literal["linear", "mlp"]
DROPOUT = 0.1
SMALLEST_DEVIATION = 0.25
"""The smallest standard deviation that a dimension is divided by, relative to the median of all.

Some channels of convolutional models are almost constant on a data set. Divided by their own
deviation, their noise would decide about a picture unlike the training data."""


class Adapter(nn.Module):
    """Standardise pooled features [N, width], then map them to [N, D].

    Features of pretrained models differ in scale by orders of magnitude, from model to model and
    from dimension to dimension. Standardised, one learning rate fits them all.

    Args:
        width: Size of the pooled features.
        feature_dim: D.
        name: `linear`, or `mlp` for a hidden layer of D units between.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, feature_dim: int, name: AdapterName) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.layers: nn.Module = nn.Linear(width, feature_dim)
        if name == "mlp":
            self.layers = nn.Sequential(
                nn.Linear(width, feature_dim),
                nn.GELU(),
                nn.Dropout(DROPOUT),
                nn.Linear(feature_dim, feature_dim),
            )

    def standardize(self, features: Tensor) -> None:
        """Take the mean and the standard deviation from features [N, width]."""
        self.mean.copy_(features.mean(dim=0))
        deviation = features.std(dim=0, correction=0)
        varying = deviation[deviation > 0]
        floor = SMALLEST_DEVIATION * varying.median() if len(varying) else deviation.new_ones(())
        self.scale.copy_(1 / deviation.clamp_min(floor))

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.layers((features - self.mean) * self.scale)
        return mapped
