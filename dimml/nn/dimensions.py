"""Effective dimensions: the feature dimensions of one modality that tell the classes apart.

Source: DI-MML, arXiv 2407.19514, the dimension-decoupling part of the DUC loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The limit of a [dimensions, samples] block of features: 8 MiB of float64.
MAX_BLOCK_ELEMENTS = 2**20


def effective_dimensions(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return which dimensions classify better than the average dimension of this modality.

    Pass the features of all training rows that have the modality, computed in eval mode and
    without augmentation.

    Formula: effective[d] = counts[d] > mean over d' of counts[d'] (strictly), with the counts of
    `correct_counts`. Source: DI-MML, arXiv 2407.19514, dimension decoupling.

    Args:
        features: Features of one modality, [N samples, D dimensions].
        labels: Class indices in 0 .. num_classes - 1, integer [N samples].
        num_classes: K; classes without samples are ignored.

    Returns:
        bool [D dimensions], on the device of `features`.

    Raises:
        ValueError: If shapes disagree, there are no samples or no dimensions, a label is out of
            range, or a feature is not finite.
    """
    correct = correct_counts(features, labels, num_classes)
    # Compare integers: the rounded mean of equal fractions can fall just below them, which would
    # make every dimension effective.
    return correct * len(correct) > correct.sum()


@torch.no_grad()
def correct_counts(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count the samples that each dimension alone assigns to their own class.

    Formula: with mu[c, d] the mean of features[:, d] over class c,
    counts[d] = sum_i [argmin_c |features[i, d] - mu[c, d]| = labels[i]]; ties go to the lowest
    class index. Source: DI-MML, arXiv 2407.19514, dimension decoupling.

    Arguments and errors are those of `effective_dimensions`.

    Returns:
        int64 [D dimensions], each in 0 .. N, on the device of `features`.
    """
    _check(features, labels, num_classes)
    # The new numbers leave out empty classes. They keep the order of the classes, so the lowest
    # class still wins a tie.
    classes, sample_classes = torch.unique(labels.to(features.device), return_inverse=True)
    means = _class_means(features, sample_classes, len(classes))
    dimensions = features.shape[1]
    height = min(len(features), MAX_BLOCK_ELEMENTS)
    width = max(1, min(dimensions, MAX_BLOCK_ELEMENTS // height))
    counts = torch.zeros(dimensions, dtype=torch.int64, device=features.device)
    for columns in (slice(start, start + width) for start in range(0, dimensions, width)):
        sorted_means, lowest = _sort_means(means[:, columns])
        blocks = torch.split(features[:, columns], height), torch.split(sample_classes, height)
        for rows, row_classes in zip(*blocks, strict=True):
            values = rows.T.double().contiguous()
            nearest = _nearest_classes(values, sorted_means, lowest)
            counts[columns] += (nearest == row_classes).sum(dim=1)
    return counts


def _sort_means(means: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of each dimension in order, and the lowest class that has each of them.

    Args:
        means: [K classes, D dimensions].

    Returns:
        Two tensors [D dimensions, K].
    """
    # The sort is stable, so the first of several equal means is that of the lowest class.
    ordered, order = means.T.contiguous().sort(dim=1, stable=True)
    return ordered, order.gather(1, torch.searchsorted(ordered, ordered))


def _nearest_classes(values: Tensor, means: Tensor, lowest: Tensor) -> Tensor:
    """Return the class whose mean is nearest to each value, the lowest class of a tie.

    The nearest mean is one of the two between which a value lies. A binary search finds them in
    O(log K) steps, where all distances take K.

    Args:
        values: [D dimensions, N samples].
        means: [D dimensions, K], and `lowest`, the same, both of `_sort_means`.

    Returns:
        int64 [D dimensions, N samples].
    """
    # means[above - 1] < value <= means[above]. Outside of all means, both neighbours are the same.
    above = torch.searchsorted(means, values)
    left, right = (above - 1).clamp_min_(0), above.clamp_max(means.shape[1] - 1)
    to_left, to_right = ((values - means.gather(1, side)).abs_() for side in (left, right))
    left_class, right_class = lowest.gather(1, left), lowest.gather(1, right)
    nearest = torch.where(to_left < to_right, left_class, right_class)
    return torch.where(to_left == to_right, torch.minimum(left_class, right_class), nearest)


def _class_means(features: Tensor, sample_classes: Tensor, num_classes: int) -> Tensor:
    """Return the mean feature of each class, float64 [K classes, D dimensions].

    Sums are in float64, where float32 values of similar size add up without rounding. A constant
    dimension therefore has exactly equal means, and its ties stay ties.
    """
    dimensions = features.shape[1]
    sums = torch.zeros(num_classes, dimensions, dtype=torch.float64, device=features.device)
    height = max(1, MAX_BLOCK_ELEMENTS // dimensions)
    blocks = torch.split(features, height), torch.split(sample_classes, height)
    for rows, row_classes in zip(*blocks, strict=True):
        sums.index_add_(0, row_classes, rows.double())
    return sums / sample_classes.bincount(minlength=num_classes).unsqueeze(1)


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
