"""Effective dimensions: the feature dimensions of one modality that tell the classes apart.

Source: DI-MML, arXiv 2407.19514, the dimension-decoupling part of the DUC loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Bounds the [samples, classes, dimensions] block of distances held at once: 8 MiB of float64.
MAX_BLOCK_ELEMENTS = 2**20


def effective_dimensions(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the dimensions that classify better than the average dimension of this modality.

    Call it with the whole training set, in eval mode and without augmentation, and only with rows
    that have the modality.

    Formula: effective[d] = score[d] > mean over d' of score[d'] (strictly), with the scores of
    `dimension_scores`. Source: DI-MML, arXiv 2407.19514, dimension decoupling.

    Args:
        features: features of one modality, [N samples, D dimensions].
        labels: class indices in 0 .. num_classes - 1, integer [N samples].
        num_classes: K; classes without samples are ignored.

    Returns:
        bool [D dimensions], on the device of `features`.

    Raises:
        ValueError: If shapes disagree, there are no samples or no dimensions, a label is out of
            range, or a feature is not finite.
    """
    right = _right_counts(features, labels, num_classes)
    # Integers, because a rounded mean can fall just below scores that are all equal, which would
    # make every dimension effective.
    return right * len(right) > right.sum()


def dimension_scores(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the fraction of samples that each dimension alone assigns to their own class.

    Formula: with mu[c, d] the mean of features[:, d] over class c,
    score[d] = (1/N) sum_i [argmin_c |features[i, d] - mu[c, d]| = labels[i]]; ties go to the
    lowest class index. Source: DI-MML, arXiv 2407.19514, dimension decoupling.

    Args:
        features: features of one modality, [N samples, D dimensions].
        labels: class indices in 0 .. num_classes - 1, integer [N samples].
        num_classes: K; classes without samples are ignored.

    Returns:
        float64 [D dimensions], each in 0 .. 1, on the device of `features`.

    Raises:
        ValueError: As in `effective_dimensions`.
    """
    return _right_counts(features, labels, num_classes).double() / len(labels)


@torch.no_grad()
def _right_counts(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count the samples that each dimension assigns to their own class, int64 [D dimensions]."""
    _check(features, labels, num_classes)
    # Renumbering the classes that occur drops the empty ones and, being sorted, keeps "lowest
    # class index" true for ties.
    classes, own = torch.unique(labels.to(features.device), return_inverse=True)
    means = _class_means(features, own, len(classes))
    width = max(1, min(features.shape[1], MAX_BLOCK_ELEMENTS // len(classes)))
    height = max(1, MAX_BLOCK_ELEMENTS // (len(classes) * width))
    return torch.cat(
        [
            _right_in_block(block, own, block_means, height)
            for block, block_means in zip(
                torch.split(features, width, dim=1), torch.split(means, width, dim=1), strict=True
            )
        ]
    )


def _class_means(features: Tensor, own: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of each class, float64 [K classes, D dimensions].

    float64 sums of float32 values of similar size do not round, so a constant dimension has exactly
    equal means, and ties stay ties.
    """
    dimensions = features.shape[1]
    sums = torch.zeros(num_classes, dimensions, dtype=torch.float64, device=features.device)
    height = max(1, MAX_BLOCK_ELEMENTS // dimensions)
    for rows, classes in zip(torch.split(features, height), torch.split(own, height), strict=True):
        sums.index_add_(0, classes, rows.double())
    return sums / own.bincount(minlength=num_classes).unsqueeze(1)


def _right_in_block(features: Tensor, own: Tensor, means: Tensor, height: int) -> Tensor:
    """Count the right samples of some dimensions, `height` samples at a time, int64 [D]."""
    right = torch.zeros(features.shape[1], dtype=torch.int64, device=features.device)
    for rows, classes in zip(torch.split(features, height), torch.split(own, height), strict=True):
        # [samples, classes, dimensions]; argmin returns the first, so the lowest, of equals.
        distances = (rows.double().unsqueeze(1) - means).abs_()
        right += (distances.argmin(dim=1) == classes.unsqueeze(1)).sum(dim=0)
    return right


def _check(features: Tensor, labels: Tensor, num_classes: int) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            "features must be [samples, dimensions] and labels [samples], got "
            f"{list(features.shape)} and {list(labels.shape)}"
        )
    if features.numel() == 0:
        raise ValueError(
            "effective dimensions need at least one sample and one dimension, got features of "
            f"shape {list(features.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer class indices, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must lie in 0 .. {num_classes - 1} (num_classes={num_classes}), "
            f"got {low} .. {high}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError(
            "features hold NaN or infinity; pass only the rows that have this modality"
        )
