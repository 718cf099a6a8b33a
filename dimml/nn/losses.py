"""The terms of the training objective, as pure functions of features, logits and labels.

Every term averages over the samples that have the modalities it needs, and is 0 if there are none.
Absent rows may hold anything, NaN included: they affect neither the value nor the gradients.

Source: DI-MML, arXiv 2407.19514, the detached training objective and the DUC loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional


def masked_cross_entropy(logits: Tensor, labels: Tensor, present: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy over the present rows; a differentiable 0 if there are none.

    Gradients of absent rows of `logits` are exactly 0. A linear layer still turns that 0 into NaN
    for its weight (0 times NaN) if its *input* held NaN, so give it clean features.

    Args:
        logits: [N samples, K classes]; absent rows may hold NaN.
        labels: class indices, int64 [N samples].
        present: bool [N samples], or None when every row is present.

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
    if present is not None:
        _check_mask("present", present, len(labels))
        logits, labels = logits[present], labels[present]
    # The mean over no rows would be NaN.
    return functional.cross_entropy(logits, labels) if len(labels) else logits.sum()


def modality_cross_entropy(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    present: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Return the sum over modalities of the cross-entropy over the samples that have it.

    Both cross-entropy terms of the objective have this form: the isolated one,
    sum_m CE(h_m(f_m), y), for the logits of the private heads h_m, and the shared one,
    sum_m CE(g(f_m), y), for the logits of the shared classifier g. Source: DI-MML, arXiv
    2407.19514, training objective.

    Args:
        logits: modality name -> [N samples, K classes]; absent rows may hold NaN.
        labels: class indices, int64 [N samples].
        present: modality name -> bool [N samples], or None when nothing is absent.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: If there is no modality, a modality lacks its `present`, shapes disagree or a
            mask is not boolean.
    """
    _check_names("logits", logits, {"present": present})
    return torch.stack(
        [
            masked_cross_entropy(values, labels, None if present is None else present[name])
            for name, values in logits.items()
        ]
    ).sum()


def duc_loss(
    features: Mapping[str, Tensor],
    effective: Mapping[str, Tensor],
    temperature: float,
    present: Mapping[str, Tensor] | None = None,
    normalize: bool = False,
) -> Tensor:
    """Return the dimension-decoupled unidirectional contrastive (DUC) loss over ordered pairs.

    For teacher t and student s, over the B samples that have both and the dimensions
    S = effective[t] and not effective[s] (dimensions that tell classes apart in t but not in s):

        L(t->s) = mean_i -log softmax_j(f_s[i, S] . sg(f_t[j, S]) / temperature)[j = i]

    and the loss is sum_(t, s) L(t->s) / (M - 1), which for two modalities is their two-term sum.
    Pairs with an empty S or no common sample count 0. Only the student receives gradient, and
    only in S. Source: DI-MML, arXiv 2407.19514, DUC loss; the sum over pairs, the division and
    absent modalities are ours.

    Args:
        features: modality name -> [N samples, D dimensions], M of them with the same N and D;
            absent rows may hold NaN.
        effective: modality name -> bool [D dimensions], from `effective_dimensions`.
        temperature: what the dot products are divided by; seen: 10 to 50 without `normalize`.
        present: modality name -> bool [N samples], or None when nothing is absent.
        normalize: L2-normalise the vectors, after they are restricted to S.

    Returns:
        Scalar, in nats; a differentiable 0 when no pair qualifies.

    Raises:
        ValueError: If `temperature` is not positive and finite, there is no modality, a modality
            lacks its `effective` or `present`, shapes disagree or a mask is not boolean.
    """
    _check_duc(features, effective, temperature, present)
    # Sums of no rows are 0 and part of the graph, so backward() works if no pair qualifies.
    total = torch.stack([values[:0].sum() for values in features.values()]).sum()
    for teacher, student in permutations(features, 2):
        dimensions = effective[teacher] & ~effective[student]
        rows = slice(None) if present is None else present[teacher] & present[student]
        # Selecting rows, unlike multiplying by 0, keeps the NaN of absent rows out.
        taught = features[student][rows][:, dimensions]
        teaching = features[teacher].detach()[rows][:, dimensions]
        if taught.numel():
            total = total + _contrast(taught, teaching, temperature, normalize)
    return total / max(1, len(features) - 1)


def _contrast(student: Tensor, teacher: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Return the mean of -log softmax_j(student_i . teacher_j / temperature)[i]; both [B, |S|]."""
    if normalize:
        student, teacher = _unit(student), _unit(teacher)
    # Dividing first keeps the product from overflowing in half precision.
    logits = (student / temperature) @ teacher.T
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _unit(vectors: Tensor) -> Tensor:
    """Scale rows to length 1; zero rows stay zero and get no gradient."""
    # `normalize` alone would give a zero row a gradient of 1 / eps = 1e12.
    directed = torch.where(vectors.any(dim=1, keepdim=True), vectors, vectors.detach())
    return functional.normalize(directed, dim=1)


def _check_duc(
    features: Mapping[str, Tensor],
    effective: Mapping[str, Tensor],
    temperature: float,
    present: Mapping[str, Tensor] | None,
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
        if present is not None:
            _check_mask(f"present[{name!r}]", present[name], samples_dimensions[0])


def _check_names(
    what: str, values: Mapping[str, Tensor], others: Mapping[str, Mapping[str, Tensor] | None]
) -> None:
    if not values:
        raise ValueError(f"{what} must hold at least one modality, got none")
    for other, given in others.items():
        missing = [] if given is None else [name for name in values if name not in given]
        if missing:
            raise ValueError(f"{other} lacks {missing}; it needs every modality of {what}")


def _check_mask(what: str, mask: Tensor, length: int) -> None:
    # An integer mask would silently select rows by position.
    if mask.dtype != torch.bool or mask.shape != (length,):
        raise ValueError(
            f"{what} must be bool of shape [{length}], got {mask.dtype} of {list(mask.shape)}"
        )
