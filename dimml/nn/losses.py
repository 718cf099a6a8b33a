"""The terms of the training objective, as pure functions of features, logits and labels.

Every term averages over the samples that have what it needs, and is 0 where none has. What is
absent may hold anything, NaN included: it reaches neither the value nor the gradients.

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
    """Mean cross-entropy over the present rows; 0, still differentiable, if there are none.

    Gradients of absent rows of `logits` are exactly 0. Note that a linear layer turns that 0 into
    NaN for its weight (0 times NaN) if its *input* held NaN: give it clean features.

    Args:
        logits: [N samples, K classes]; absent rows may hold NaN.
        labels: class indices, int64 [N samples].
        present: bool [N samples], or None when every row is present.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: shapes disagree or `present` is not boolean.
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
    """Cross-entropy of each modality over the samples that have it, summed over modalities.

    It is both cross-entropy terms of the objective: the isolated one, sum_m CE(h_m(f_m), y), when
    given the logits of the private heads h_m, and the shared one, sum_m CE(g(f_m), y), when given
    those of the shared classifier g. Source: DI-MML, arXiv 2407.19514, training objective.

    Args:
        logits: modality name -> [N samples, K classes]; absent rows may hold NaN.
        labels: class indices, int64 [N samples].
        present: modality name -> bool [N samples], or None when nothing is absent.

    Returns:
        Scalar, in nats.

    Raises:
        ValueError: there is no modality, a modality lacks its `present`, shapes disagree or a mask
            is not boolean.
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
    """Dimension-decoupled unidirectional contrastive (DUC) loss over all ordered pairs.

    For teacher t and student s, over the B samples that have both and the dimensions
    S = effective[t] and not effective[s] (what t can tell that s cannot say itself):

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
        ValueError: `temperature` is not positive and finite, there is no modality, a modality
            lacks its `effective` or `present`, shapes disagree or a mask is not boolean.
    """
    _check_duc(features, effective, temperature, present)
    # Sums of no rows: 0, yet part of the graph, so that backward() works when no pair qualifies.
    total = torch.stack([values[:0].sum() for values in features.values()]).sum()
    for teacher, student in permutations(features, 2):
        dimensions = effective[teacher] & ~effective[student]
        rows = slice(None) if present is None else present[teacher] & present[student]
        # Rows are selected, not multiplied by 0, so that NaN of absent rows goes nowhere.
        taught = features[student][rows][:, dimensions]
        teaching = features[teacher].detach()[rows][:, dimensions]
        if taught.numel():
            total = total + _contrast(taught, teaching, temperature, normalize)
    return total / max(1, len(features) - 1)


def _contrast(student: Tensor, teacher: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Mean over rows of -log softmax_j(student_i . teacher_j / temperature)[i]; both [B, |S|]."""
    if normalize:
        student, teacher = _unit(student), _unit(teacher)
    # Dividing before the product keeps half precision from overflowing in it.
    logits = (student / temperature) @ teacher.T
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def _unit(vectors: Tensor) -> Tensor:
    """Rows scaled to length 1; zero rows stay zero, without gradient, having no direction."""
    # Without the detour the gradient of a zero row would be 1 / eps = 1e12.
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
    # Integers would silently select by position instead of masking.
    if mask.dtype != torch.bool or mask.shape != (length,):
        raise ValueError(
            f"{what} must be bool of shape [{length}], got {mask.dtype} of {list(mask.shape)}"
        )
