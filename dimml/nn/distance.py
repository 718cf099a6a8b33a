"""The distance of a feature from the training data, which tells what a certainty cannot.

A classifier can be certain about noise. The features of corrupted input lie far from those of every
class, so the logits of a modality are divided by how far they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAR = 1e4
"""A coordinate of a class without training data, farther than any feature."""


class DistanceScale(nn.Module):
    """How much farther a feature lies from its nearest class than training data do.

        d_m^2 = min_c |(f_m - mean_m) P_m - mu_(m,c)|^2,   s_m = max(1, d_m^2 / D)

    d is the Mahalanobis distance (Lee et al. 2018, arXiv 1807.03888): P_m P_m^T is the inverse of
    the covariance within classes, which all classes share, and mu_(m,c) is the mean of a class
    after the same map. On training data d^2 is about D on average. If the covariance of a feature
    grows by a factor s, the logits of linear discriminant analysis fall by that factor, and
    d^2 / D is the estimate of s from one row. Before the buffers are set, s is 1.

    Attributes:
        mean: [M modalities, D].
        whitening: P, [M, D, D].
        class_means: mu, [M, K classes, D].
    """

    mean: Tensor
    whitening: Tensor
    class_means: Tensor

    def __init__(self, modalities: int, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(modalities, feature_dim))
        self.register_buffer("whitening", torch.zeros(modalities, feature_dim, feature_dim))
        self.register_buffer("class_means", torch.zeros(modalities, classes, feature_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Map finite features [N, M, D] to s [N, M], at least 1."""
        mapped = torch.einsum("nmd,mde->nme", features - self.mean, self.whitening)
        products = torch.einsum("nme,mke->nmk", mapped, self.class_means)
        nearest = (self.class_means.square().sum(dim=-1) - 2 * products).argmin(dim=-1)
        # The sum of these terms would find the class, but lose the digits of a small distance.
        modalities, classes, _ = self.class_means.shape
        rows = nearest + classes * torch.arange(modalities, device=nearest.device)
        difference = mapped - self.class_means.flatten(0, 1)[rows]
        return difference.square().mean(dim=-1).clamp_min(1.0)
