"""The fit of `DistanceScale` on the features of the training split."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from dimml.nn.distance import FAR, DistanceScale
from train.calibration import EncodedRows

FLOOR = 0.01
"""The least variance of a direction within classes, relative to the mean over directions.

A direction in which the training data hardly vary would otherwise decide about every distance.
"""
TOTAL_FLOOR = 1e-4
"""The same, relative to the variance of all rows, for classes whose rows are all alike."""


@torch.no_grad()
def fit_distance(scale: DistanceScale, rows: EncodedRows) -> None:
    """Set the means and the whitening of each modality.

    The covariance is shrunk as Ledoit and Wolf (2004, Journal of Multivariate Analysis 88, 365-411)
    derive from the number of rows, so a modality with fewer rows than dimensions is no exception. A
    modality with fewer rows than twice its classes keeps a scale of 1.

    Args:
        scale: The module to set.
        rows: Labelled rows of the training split, not augmented, with features [N, M, D].
    """
    modalities, classes, _ = scale.class_means.shape
    for slot in range(modalities):
        has = rows.present[:, slot]
        labels = rows.labels[has]
        if len(labels) < 2 * classes:
            continue
        features = rows.features[has, slot].double()
        mean = features.mean(dim=0)
        means = _class_means(features - mean, labels, classes)
        residuals = features - mean - means[labels]
        if not bool((features != mean).any()):
            continue
        covariance = LedoitWolf(assume_centered=True).fit(residuals.numpy()).covariance_
        dimensions = len(covariance)
        total = float((features - mean).square().mean())
        floor = FLOOR * np.trace(covariance) / dimensions + TOTAL_FLOOR * total
        covariance += floor * np.eye(dimensions)
        whitening = torch.from_numpy(np.linalg.cholesky(np.linalg.inv(covariance)))
        scale.mean[slot] = mean
        scale.whitening[slot] = whitening
        unseen = labels.bincount(minlength=classes) == 0
        scale.class_means[slot] = (means @ whitening).masked_fill(unseen.unsqueeze(1), FAR)


def _class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of each class [K, D], 0 for a class without rows."""
    sums = torch.zeros(classes, features.shape[1], dtype=features.dtype)
    counts = labels.bincount(minlength=classes).clamp_min(1)
    return sums.index_add_(0, labels, features) / counts.unsqueeze(1)
