"""Calibration on the validation split: temperatures and the weights of the modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.fusion import CertaintyFusion, certainty_weights
from dimml.nn.masks import blank_absent, subset_index
from dimml.samples import subsets

UNIFORM = 1e6
"""A temperature of the certainty weights that makes them equal to about 1e-6."""

Rule = Literal["paper", "average", "certainty", "pooled", "sum"]
"""How the logits of the modalities are joined, always by `certainty_weights` and a sum.

- paper: the shared classifier's logits as they are, T of 1 or 3; nothing is calibrated. Source:
  DI-MML, arXiv 2407.19514.
- average: logits calibrated per modality and per subset, with equal weights.
- certainty: the same calibration, with T chosen on validation.
- pooled: the same calibration, with T and a bias per modality fitted: log-linear pooling (Genest
  and Zidek 1986, Statistical Science 1, 114-135) whose weights follow certainty.
- sum: the logits are summed as the classifier gives them, then calibrated per subset. A modality
  with large logits counts for more: its weight is its temperature (b = log t, T infinite).
"""

FUSION_TEMPERATURES: dict[Rule, tuple[float, ...]] = {
    "paper": (1.0, 3.0),
    "average": (UNIFORM,),
    "certainty": (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0),
    "pooled": (0.1, 0.3, 1.0, 10.0),
    "sum": (UNIFORM,),
}
"""The fusion temperatures that are tried; for `pooled`, the starting points of the fit."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of a temperature that divides logits."""
POOLED_TEMPERATURES = (0.01, 100.0)
"""Bounds of the temperature of the certainty weights that `pooled` fits."""
PENALTY = 1e-3
"""Weight of the squared steps in `pooled`, which keeps undetermined parameters where they were."""


class EncodedRows(NamedTuple):
    """Rows of a split as the encoders of a model see them.

    Attributes:
        features: [N rows, M modalities, D]; absent slots may hold anything.
        present: bool [N, M].
        labels: int64 [N], `UNLABELLED` for a row without a label.
    """

    features: Tensor
    present: Tensor
    labels: Tensor

    def select(self, rows: Tensor) -> EncodedRows:
        """Return some of the rows, selected by a mask [N] or by their numbers."""
        return EncodedRows(self.features[rows], self.present[rows], self.labels[rows])


def subset_mask(subset: tuple[str, ...], modalities: tuple[str, ...], device: Any = None) -> Tensor:
    """Return the slots of a subset as a mask, bool [M]."""
    return torch.tensor([name in subset for name in modalities], device=device)


def subset_rows(
    modalities: tuple[str, ...], present: Tensor
) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Yield each subset that occurs, the rows that have at least it, and a mask of its slots.

    Args:
        modalities: Names in slot order.
        present: bool [N, M].

    Yields:
        The names of the subset, its rows bool [N], and its mask bool [n, M], repeated for each row.
    """
    for subset in subsets(modalities):
        mask = subset_mask(subset, modalities, present.device)
        rows = present[:, mask].all(dim=1)
        if rows.any():
            yield subset, rows, mask.expand(int(rows.sum()), -1)


@torch.no_grad()
def calibrate(
    fusion: CertaintyFusion, modalities: tuple[str, ...], rows: EncodedRows, rule: Rule
) -> None:
    """Fit the free parameters of a rule by the negative log-likelihood, and set them.

    The fit takes one temperature per modality (Guo et al. 2017, arXiv 1706.04599), then the fusion
    temperature by the mean over subsets, then one temperature per subset of two or more modalities.

    Args:
        fusion: The fusion to calibrate.
        modalities: Names in slot order.
        rows: Labelled rows of the validation split.
        rule: How the modalities are joined.
    """
    slots, labels = len(modalities), rows.labels
    logits, scale = fusion.classify(rows.features, rows.present)
    modality = torch.ones(slots)
    for slot in range(slots):
        has = rows.present[:, slot]
        if has.any() and rule != "paper":
            modality[slot] = fit_temperature(logits[has, slot], labels[has])
    scaled = logits / modality.unsqueeze(-1)
    bias = modality.log() if rule == "sum" else torch.zeros(slots)
    candidates = []
    for temperature in FUSION_TEMPERATURES[rule]:
        table = torch.ones(2**slots)
        likelihoods = []
        fusion.set_calibration(modality, temperature, table, bias)
        for subset, chosen, mask in subset_rows(modalities, rows.present):
            if len(subset) < 2:
                continue
            probabilities, _ = fusion.fuse(scaled[chosen], mask, scale[chosen])
            log_probabilities = probabilities.clamp_min(1e-12).log()
            fitted = 1.0 if rule == "paper" else fit_temperature(log_probabilities, labels[chosen])
            table[subset_index(mask[0])] = fitted
            likelihoods.append(_nll(log_probabilities / fitted, labels[chosen]))
        candidates.append((float(np.mean(likelihoods or [0.0])), temperature, table))
    _, temperature, table = min(candidates, key=lambda candidate: candidate[0])
    fusion.set_calibration(modality, temperature, table, bias)
    if rule == "pooled":
        clean = blank_absent(scaled, rows.present)
        groups = [
            (clean[chosen].double(), mask, labels[chosen], int(subset_index(mask[0])))
            for subset, chosen, mask in subset_rows(modalities, rows.present)
            if len(subset) > 1
        ]
        if groups:
            _fit_pooling(fusion, groups)


def _fit_pooling(
    fusion: CertaintyFusion, groups: Sequence[tuple[Tensor, Tensor, Tensor, int]]
) -> None:
    """Fit biases, fusion temperature and subset temperatures together from their present values.

    Args:
        fusion: The fusion to calibrate.
        groups: For each subset, the calibrated logits of its rows [n, M, K], its mask [n, M], the
            labels [n], and its `subset_index`.
    """
    temperatures = torch.cat([fusion.fusion_temperature[None], fusion.subset_temperature])
    start = torch.cat([fusion.modality_bias, temperatures.log()]).double()
    step = torch.zeros_like(start, requires_grad=True)
    sizes = [len(fusion.modality_bias), 1, len(fusion.subset_temperature)]
    optimizer = torch.optim.LBFGS([step], max_iter=200, line_search_fn="strong_wolfe")

    def parameters() -> tuple[Tensor, Tensor, Tensor]:
        bias, log_temperature, log_table = torch.split(start + step, sizes)
        # A few rows that are all right would send the temperatures to 0 or infinity.
        return (
            bias,
            log_temperature.clamp(*np.log(POOLED_TEMPERATURES)),
            log_table.clamp(*np.log(TEMPERATURES)),
        )

    def objective() -> Tensor:
        optimizer.zero_grad()
        bias, log_temperature, log_table = parameters()
        total = PENALTY * step.square().sum()
        for values, mask, targets, index in groups:
            weights = certainty_weights(values, mask, log_temperature.exp(), bias)
            fused = (weights.unsqueeze(-1) * values).sum(dim=1) / log_table[index].exp()
            total = total + functional.cross_entropy(fused, targets) / len(groups)
        torch.autograd.backward(total)
        return total

    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    if not bool(step.isfinite().all()):
        # The fit diverged, so the values that were fitted one after the other stay.
        return
    with torch.no_grad():
        bias, log_temperature, log_table = parameters()
    # A bias that all modalities share has no effect, so the mean is taken out.
    fusion.set_calibration(
        fusion.modality_temperature.clone(),
        log_temperature[0].exp(),
        log_table.exp(),
        bias - bias.mean(),
    )


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature within `TEMPERATURES` that minimises the negative log-likelihood."""

    def objective(log_temperature: float) -> float:
        return _nll(logits / float(np.exp(log_temperature)), labels)

    bounds = tuple(np.log(TEMPERATURES))
    best = scipy.optimize.minimize_scalar(objective, bounds=bounds, method="bounded")
    return float(np.exp(best.x))


def _nll(logits: Tensor, labels: Tensor) -> float:
    return float(functional.cross_entropy(logits, labels))
