"""A linear classifier per modality, in place of the one that all modalities share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PrivateClassifiers(nn.Module):
    """The logits of each modality by its own classifier: z_m = W_m f_m + b_m.

    It takes the place of the shared classifier in `CertaintyFusion.classifier`, so fusion,
    calibration and export are the same for both.

    Attributes:
        weight: [M modalities, K classes, D dimensions].
        bias: [M modalities, K classes].
        out_features: K.
    """

    def __init__(self, modalities: int, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        # The initialisation of `nn.Linear`.
        bound = 1 / math.sqrt(feature_dim)
        weight = torch.empty(modalities, num_classes, feature_dim).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(modalities, num_classes).uniform_(-bound, bound))
        self.out_features = num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N samples, M modalities, D dimensions] to logits [N, M, K classes]."""
        return torch.einsum("nmd,mkd->nmk", features, self.weight) + self.bias
