"""Calibration on the validation split: temperatures, then conformal thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional

from dimml.bundle import Conformal
from dimml.nn.fusion import SharedClassifierFusion, subset_index
from dimml.samples import subset_name, subsets
from train.subsets import subset_mask

FUSION_TEMPERATURES = (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)
CONFORMAL_SHARE = 3
"""One validation row in this many is kept for the conformal thresholds alone."""


def conformal_rows(count: int) -> Tensor:
    """Bool [count]: the validation rows that only the conformal thresholds may see.

    Drawn at random, by a seed of their own: a table may list its labels in turn.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order % CONFORMAL_SHARE == 0


def calibrate(
    fusion: SharedClassifierFusion,
    modalities: tuple[str, ...],
    logits: Tensor,
    present: Tensor,
    labels: Tensor,
    candidates: Sequence[float] = FUSION_TEMPERATURES,
) -> None:
    """Fits every temperature by the negative log-likelihood, and sets them.

    First one per modality (Guo et al. 2017, arXiv 1706.04599), then the fusion temperature on the
    mean over subsets, then one per subset of two modalities or more.

    Args:
        fusion: what to calibrate.
        modalities: names in slot order.
        logits: [N, M, K] of the shared classifier, not calibrated.
        present: bool [N, M].
        labels: int64 [N].
        candidates: for the fusion temperature.
    """
    slots = len(modalities)
    modality = torch.ones(slots)
    for slot in range(slots):
        rows = present[:, slot]
        if rows.any():
            modality[slot] = fit_temperature(logits[rows, slot], labels[rows])
    scaled = logits / modality.unsqueeze(-1)
    options = []
    for temperature in candidates:
        table = torch.ones(2**slots)
        likelihoods = []
        fusion.set_calibration(modality, temperature, table)
        for subset in subsets(modalities):
            mask = subset_mask(subset, modalities, logits.device)
            rows = present[:, mask].all(dim=1)
            if len(subset) < 2 or not rows.any():
                continue
            probabilities, _ = fusion.fuse(scaled[rows], mask.expand(int(rows.sum()), -1))
            log_probabilities = probabilities.clamp_min(1e-12).log()
            fitted = fit_temperature(log_probabilities, labels[rows])
            table[subset_index(mask)] = fitted
            likelihoods.append(_nll(log_probabilities / fitted, labels[rows]))
        options.append((float(np.mean(likelihoods or [0.0])), temperature, table))
    _, temperature, table = min(options, key=lambda option: option[0])
    fusion.set_calibration(modality, temperature, table)


def conformal(
    answer: Callable[[Tensor, Tensor], Sequence[Any]],
    modalities: tuple[str, ...],
    features: Tensor,
    present: Tensor,
    labels: Tensor,
    coverage: float,
) -> Conformal:
    """Split-conformal thresholds per subset, score 1 - p(true label).

    The threshold is the ceil((n + 1) * coverage)-th smallest score (Angelopoulos and Bates,
    arXiv 2107.07511); a subset with too few rows for it has none, and answers with every label.

    Args:
        answer: calibrated; of features and mask, first the probabilities [n, K].
        modalities: names in slot order.
        features: [N, M, D] of rows that nothing else was fitted on.
        present: bool [N, M].
        labels: int64 [N].
        coverage: the share of sets that shall hold the true label.
    """
    thresholds = {}
    for subset in subsets(modalities):
        mask = subset_mask(subset, modalities, features.device)
        rows = present[:, mask].all(dim=1)
        count = int(rows.sum())
        rank = int(np.ceil((count + 1) * coverage))
        if not count or rank > count:
            continue
        with torch.no_grad():
            probabilities = answer(features[rows], mask.expand(count, -1))[0]
        scores = 1 - probabilities[torch.arange(count), labels[rows]]
        thresholds[subset_name(subset)] = float(scores.sort().values[rank - 1])
    return Conformal(coverage=coverage, thresholds=thresholds)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least negative log-likelihood, 0.05 to 20."""
    objective: Callable[[float], float] = lambda log_t: _nll(logits / float(np.exp(log_t)), labels)  # noqa: E731
    bounds = (np.log(0.05), np.log(20.0))
    return float(
        np.exp(scipy.optimize.minimize_scalar(objective, bounds=bounds, method="bounded").x)
    )


def _nll(logits: Tensor, labels: Tensor) -> float:
    return float(functional.cross_entropy(logits, labels))
