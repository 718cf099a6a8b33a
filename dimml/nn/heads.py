"""One linear classifier per modality, as an alternative to one that all modalities share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PrivateClassifiers(nn.Module):
    """One linear layer per modality: z_m = W_m f_m + b_m.

    `CertaintyFusion.classifier` holds either this module or one shared linear layer. Fusion,
    calibration and export treat both alike.

    Attributes:
        weight: [M modalities, K classes, D dimensions].
        bias: [M modalities, K classes].
        out_features: K.
    """

    def __init__(self, modalities: int, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        # `nn.Linear` initialises its weight and bias with the same bound.
        bound = 1 / math.sqrt(feature_dim)
        weight = torch.empty(modalities, num_classes, feature_dim).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(modalities, num_classes).uniform_(-bound, bound))
        self.out_features = num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N samples, M modalities, D dimensions] to logits [N, M, K classes]."""
        return torch.einsum("nmd,mkd->nmk", features, self.weight) + self.bias
