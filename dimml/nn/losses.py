"""The terms of the training objective, as pure functions of features, logits and labels.

Each term averages over the samples that have the modalities of the term, and is 0 without such
samples. Absent rows may hold any values, including NaN, and affect neither loss nor gradients.

Source: DI-MML, arXiv 2407.19514, the detached training objective and the DUC loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional


def mean_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean over samples of -w_y log softmax(logits)_y, in nats.

    The divisor is the number of samples, not the sum of their weights. A batch of one rare class
    therefore counts more than a batch of one frequent class.

    Args:
        logits: [N samples, K classes], with at least one sample.
        labels: Class indices, int64 [N samples].
        class_weights: w, [K classes]; None for 1.
    """
    if class_weights is None:
        return functional.cross_entropy(logits, labels)
    total = functional.cross_entropy(logits, labels, weight=class_weights, reduction="sum")
    return total / len(labels)


def masked_cross_entropy(
    logits: Tensor, labels: Tensor, present: Tensor, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy over the present rows, or a differentiable 0 without any.

    Gradients of absent rows of `logits` are exactly 0. If such logits come from a linear layer,
    its input must not hold NaN, because 0 times NaN is NaN in the gradient of its weight.

    Args:
        logits: [N samples, K classes]; absent rows may hold NaN.
        labels: Class indices, int64 [N samples].
        present: bool [N samples].
        class_weights: See `mean_cross_entropy`.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If shapes disagree or `present` is not boolean.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "logits must be [samples, classes] and labels [samples], got "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
    _check_mask("present", present, len(labels))
    logits, labels = logits[present], labels[present]
    # The mean over no rows would be NaN.
    return mean_cross_entropy(logits, labels, class_weights) if len(labels) else logits.sum()


def modality_cross_entropy(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    present: Mapping[str, Tensor],
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the sum over modalities of the cross-entropy of the samples that have the modality.

    Both cross-entropy terms of the objective have this form: the isolated term,
    sum_m CE(h_m(f_m), y), for the logits of the private heads h_m, and the shared term,
    sum_m CE(g(f_m), y), for the logits of the shared classifier g. Source: DI-MML, arXiv
    2407.19514, training objective.

    Args:
        logits: Modality name to [N samples, K classes]; absent rows may hold NaN.
        labels: Class indices, int64 [N samples].
        present: Modality name to bool [N samples].
        class_weights: See `mean_cross_entropy`.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If there is no modality, a modality lacks its `present`, shapes disagree or a
            mask is not boolean.
    """
    _check_names("logits", logits, {"present": present})
    terms = [
        masked_cross_entropy(z, labels, present[name], class_weights) for name, z in logits.items()
    ]
    return torch.stack(terms).sum()


def duc_loss(
    features: Mapping[str, Tensor],
    effective: Mapping[str, Tensor],
    temperature: float,
    present: Mapping[str, Tensor],
    normalize: bool = False,
) -> Tensor:
    """Return the dimension-decoupled unidirectional contrastive (DUC) loss over ordered pairs.

    For teacher t and student s, over the B samples that have both and the dimensions
    S = effective[t] and not effective[s] (dimensions that tell classes apart in t but not in s):

        L(t->s) = mean_i -log softmax_j(f_s[i, S] . sg(f_t[j, S]) / temperature)[j = i]

    and the loss is sum_(t, s) L(t->s) / (M - 1), which for two modalities is their two-term sum.
    A pair with an empty S or no common sample adds 0. Gradients reach only the student, and only
    its dimensions S. Source: DI-MML, arXiv 2407.19514, DUC loss for two modalities; the sum over
    pairs, the division by M - 1 and absent modalities are added.

    Args:
        features: Modality name to [N samples, D dimensions], with the same N and D for all M
            modalities; absent rows may hold NaN.
        effective: Modality name to bool [D dimensions], from `effective_dimensions`.
        temperature: Divisor of the dot products; the source uses 10 to 50, without `normalize`.
        present: Modality name to bool [N samples].
        normalize: L2-normalise the vectors, after they are restricted to S.

    Returns:
        Scalar, in nats; a differentiable 0 if no pair has both samples and dimensions.

    Raises:
        ValueError: If `temperature` is not positive and finite, there is no modality, a modality
            lacks its `effective` or `present`, shapes disagree or a mask is not boolean.
    """
    _check_duc(features, effective, temperature, present)
    # These sums over no rows are 0, but they let `backward` work if every pair is skipped.
    total = torch.stack([values[:0].sum() for values in features.values()]).sum()
    for teacher, student in permutations(features, 2):
        dimensions = effective[teacher] & ~effective[student]
        rows = present[teacher] & present[student]
        # Rows are selected, not multiplied by 0, because 0 times the NaN of an absent row is NaN.
        student_vectors = features[student][rows][:, dimensions]
        teacher_vectors = features[teacher].detach()[rows][:, dimensions]
        if student_vectors.numel():
            total = total + _contrast(student_vectors, teacher_vectors, temperature, normalize)
    return total / max(1, len(features) - 1)


def _contrast(student: Tensor, teacher: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Return the mean of -log softmax_j(student_i . teacher_j / temperature)[i]; both [B, |S|]."""
    if normalize:
        student, teacher = _unit(student), _unit(teacher)
    # The division comes first, so that the product does not overflow in half precision.
    logits = (student / temperature) @ teacher.T
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _unit(vectors: Tensor) -> Tensor:
    """Scale rows to length 1; zero rows stay zero and get no gradient."""
    # Without the detached zero rows, `normalize` gives a zero row a gradient of 1 / eps = 1e12.
    vectors = torch.where(vectors.any(dim=1, keepdim=True), vectors, vectors.detach())
    return functional.normalize(vectors, dim=1)


def _check_duc(
    features: Mapping[str, Tensor],
    effective: Mapping[str, Tensor],
    temperature: float,
    present: Mapping[str, Tensor],
) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    _check_names("features", features, {"effective": effective, "present": present})
    shapes = {name: list(values.shape) for name, values in features.items()}
    samples_dimensions = next(iter(shapes.values()))
    if len(samples_dimensions) != 2 or any(s != samples_dimensions for s in shapes.values()):
        raise ValueError(
            f"features must be [samples, dimensions], alike for all modalities, got {shapes}"
        )
    for name in features:
        _check_mask(f"effective[{name!r}]", effective[name], samples_dimensions[1])
        _check_mask(f"present[{name!r}]", present[name], samples_dimensions[0])


def _check_names(
    argument: str, values: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor]]
) -> None:
    if not values:
        raise ValueError(f"{argument} must hold at least one modality, got none")
    for other, mapping in others.items():
        if missing := [name for name in values if name not in mapping]:
            raise ValueError(f"{other} lacks {missing}; it needs every modality of {argument}")


def _check_mask(name: str, mask: Tensor, length: int) -> None:
    # PyTorch would take an integer mask as row numbers.
    if mask.dtype != torch.bool or mask.shape != (length,):
        raise ValueError(
            f"{name} must be bool of shape [{length}], got {mask.dtype} of {list(mask.shape)}"
        )
