"""Calibration on the validation split: temperatures, then conformal thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional

from dimml.bundle import Conformal
from dimml.nn.fusion import (
    CertaintyFusion,
    blank_absent,
    certainty_weights,
    subset_index,
)
from dimml.samples import subset_name, subsets

UNIFORM = 1e6
"""A temperature of the certainty weights at which they are equal to about 1e-6."""

Rule = Literal["paper", "average", "certainty", "pooled"]
"""How the modalities' logits are joined, always by `certainty_weights` and a sum.

- paper: the shared classifier's logits as they are, T of 1 or 3; nothing is calibrated. Source:
  DI-MML, arXiv 2407.19514.
- average: calibrated per modality and per subset, with equal weights.
- certainty: likewise, with T chosen on validation.
- pooled: likewise, with T and a bias per modality fitted: log-linear pooling (Genest and Zidek
  1986, Statistical Science 1, 114-135) whose weights follow certainty.
"""

FUSION_TEMPERATURES: dict[Rule, tuple[float, ...]] = {
    "paper": (1.0, 3.0),
    "average": (UNIFORM,),
    "certainty": (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0),
    "pooled": (0.1, 0.3, 1.0, 10.0),
}
TEMPERATURES = (0.05, 20.0)
"""Of a modality and of a subset."""
POOLED_TEMPERATURES = (0.01, 100.0)
"""Of the certainty weights that `pooled` fits."""
PENALTY = 1e-3
"""Of the squares of what `pooled` fits, so that what the data leave open stays where it was."""
CONFORMAL_SHARE = 3
"""One validation row in this many is kept for the conformal thresholds alone."""


def subset_mask(subset: tuple[str, ...], modalities: tuple[str, ...], device: Any = None) -> Tensor:
    """Bool [M]: which slots a subset has."""
    return torch.tensor([name in subset for name in modalities], device=device)


def subset_rows(
    modalities: tuple[str, ...], present: Tensor
) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Each subset that rows have, those rows bool [N], and their mask bool [n, M].

    The rows that have at least the subset; the mask leaves them nothing else.
    """
    for subset in subsets(modalities):
        mask = subset_mask(subset, modalities, present.device)
        rows = present[:, mask].all(dim=1)
        if rows.any():
            yield subset, rows, mask.expand(int(rows.sum()), -1)


def conformal_rows(count: int) -> Tensor:
    """Bool [count]: the validation rows that only the conformal thresholds may see.

    Drawn at random, by a seed of their own: a table may list its labels in turn.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order % CONFORMAL_SHARE == 0


def calibrate(
    fusion: CertaintyFusion,
    modalities: tuple[str, ...],
    logits: Tensor,
    present: Tensor,
    labels: Tensor,
    rule: Rule = "certainty",
) -> None:
    """Fits everything that a rule leaves open by the negative log-likelihood, and sets it.

    First one temperature per modality (Guo et al. 2017, arXiv 1706.04599), then the fusion
    temperature on the mean over subsets, then one per subset of two modalities or more.

    Args:
        fusion: what to calibrate.
        modalities: names in slot order.
        logits: [N, M, K] of the shared classifier, not calibrated.
        present: bool [N, M].
        labels: int64 [N].
        rule: how they are joined.
    """
    slots = len(modalities)
    modality = torch.ones(slots)
    for slot in range(slots):
        rows = present[:, slot]
        if rows.any() and rule != "paper":
            modality[slot] = fit_temperature(logits[rows, slot], labels[rows])
    scaled = logits / modality.unsqueeze(-1)
    options = []
    for temperature in FUSION_TEMPERATURES[rule]:
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
            fitted = 1.0 if rule == "paper" else fit_temperature(log_probabilities, labels[rows])
            table[subset_index(mask)] = fitted
            likelihoods.append(_nll(log_probabilities / fitted, labels[rows]))
        options.append((float(np.mean(likelihoods or [0.0])), temperature, table))
    _, temperature, table = min(options, key=lambda option: option[0])
    fusion.set_calibration(modality, temperature, table)
    if rule == "pooled":
        _pool(fusion, modalities, blank_absent(scaled, present), present, labels)


def _pool(
    fusion: CertaintyFusion,
    modalities: tuple[str, ...],
    logits: Tensor,
    present: Tensor,
    labels: Tensor,
) -> None:
    """Fits biases, fusion temperature and subset temperatures together, from where they are."""
    groups = [
        (logits[rows].double(), mask, labels[rows], int(subset_index(mask[0])))
        for subset, rows, mask in subset_rows(modalities, present)
        if len(subset) > 1
    ]
    if not groups:
        return
    temperatures = torch.cat([fusion.fusion_temperature[None], fusion.subset_temperature])
    start = torch.cat([fusion.modality_bias, temperatures.log()]).double()
    moved = torch.zeros_like(start, requires_grad=True)
    split = [len(modalities), 1, len(fusion.subset_temperature)]
    optimizer = torch.optim.LBFGS([moved], max_iter=200, line_search_fn="strong_wolfe")

    def fitted() -> tuple[Tensor, Tensor, Tensor]:
        bias, log_temperature, log_table = (start + moved).split(split)
        # A few rows that are all right would send them to 0 or infinity.
        return (
            bias,
            log_temperature.clamp(*np.log(POOLED_TEMPERATURES)),
            log_table.clamp(*np.log(TEMPERATURES)),
        )

    def objective() -> Tensor:
        optimizer.zero_grad()
        bias, log_temperature, log_table = fitted()
        total = PENALTY * moved.square().sum()
        for values, mask, wanted, index in groups:
            weights = certainty_weights(values, mask, log_temperature.exp(), bias)
            fused = (weights.unsqueeze(-1) * values).sum(dim=1) / log_table[index].exp()
            total = total + functional.cross_entropy(fused, wanted) / len(groups)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    if not bool(moved.isfinite().all()):
        # Nothing was found: what was fitted one after the other stays.
        return
    with torch.no_grad():
        bias, log_temperature, log_table = fitted()
    # Equal biases do nothing.
    fusion.set_calibration(
        fusion.modality_temperature.clone(),
        log_temperature[0].exp(),
        log_table.exp(),
        bias - bias.mean(),
    )


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
    """The temperature of least negative log-likelihood, within `TEMPERATURES`."""
    objective: Callable[[float], float] = lambda log_t: _nll(logits / float(np.exp(log_t)), labels)  # noqa: E731
    bounds = tuple(np.log(TEMPERATURES))
    return float(
        np.exp(scipy.optimize.minimize_scalar(objective, bounds=bounds, method="bounded").x)
    )


def _nll(logits: Tensor, labels: Tensor) -> float:
    return float(functional.cross_entropy(logits, labels))
