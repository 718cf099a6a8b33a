"""How a trained model answers: uncalibrated logits, then a temperature per subset."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from dimml.nn.fusion import (
    CertaintyFusion,
    blank_absent,
    certainty_weights,
    subset_index,
)
from train.calibration import Rule, calibrate, fit_temperature, subset_rows

Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Features [N, M, D], 0 where absent, and present [N, M] to logits [N, K] and weights [N, M]."""


class Readout:
    """Calibrated probabilities for any subset: softmax(z / T_subset) (arXiv 1706.04599).

    Args:
        answer: the logits z; None for a subclass with an answer of its own.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._temperatures = torch.ones(0)

    @torch.no_grad()
    def calibrate(
        self, modalities: tuple[str, ...], features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        """Fits everything on these rows, by the negative log-likelihood.

        Args:
            modalities: names in slot order.
            features: [N, M, D], anything where absent.
            present: bool [N, M].
            labels: int64 [N].
        """
        self._temperatures = torch.ones(2 ** len(modalities))
        features = blank_absent(features, present)
        for _, rows, mask in subset_rows(modalities, present):
            logits, _ = self._answer(blank_absent(features[rows], mask), mask)
            self._temperatures[subset_index(mask[0])] = fit_temperature(logits, labels[rows])

    @torch.no_grad()
    def __call__(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities [N, K] and the modalities' shares [N, M], where the method has shares."""
        logits, weights = self._answer(blank_absent(features, present), present)
        temperatures = self._temperatures[subset_index(present)]
        return (logits / temperatures.unsqueeze(-1)).softmax(dim=-1), weights


class FusionReadout(Readout):
    """The answer of a `CertaintyFusion`, with the calibration that a bundle has.

    Args:
        fusion: calibrated in place.
        rule: how the modalities are joined.
    """

    def __init__(self, fusion: CertaintyFusion, rule: Rule = "certainty") -> None:
        self.fusion = fusion
        self._rule = rule

    @torch.no_grad()
    def calibrate(
        self, modalities: tuple[str, ...], features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        logits = self.fusion.classifier(features)
        calibrate(self.fusion, modalities, logits, present, labels, self._rule)

    @torch.no_grad()
    def __call__(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        probabilities, weights, _ = self.fusion(features, present)
        return probabilities, weights


class BestUnimodal(Readout):
    """Of the present modalities only the one that is most often right on validation.

    Args:
        fusion: whose logits per modality are used; it is not changed.
    """

    def __init__(self, fusion: CertaintyFusion) -> None:
        super().__init__(self._best)
        self._heads = fusion.classifier
        self._accuracy = torch.zeros(0)

    @torch.no_grad()
    def calibrate(
        self, modalities: tuple[str, ...], features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        right = self._heads(blank_absent(features, present)).argmax(dim=-1) == labels.unsqueeze(1)
        self._accuracy = (right & present).sum(dim=0) / present.sum(dim=0).clamp_min(1)
        super().calibrate(modalities, features, present, labels)

    def _best(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self._accuracy.expand(present.shape).masked_fill(~present, -1.0).argmax(dim=1)
        weights = torch.nn.functional.one_hot(chosen, present.shape[1]).to(features.dtype)
        return (weights.unsqueeze(-1) * self._heads(features)).sum(dim=1), weights


class FusionHeadReadout(Readout):
    """A head on all modalities together joins the certainty weighting where all are present.

    Its share counts for the modalities in equal parts. Source: DI-MML, arXiv 2407.19514, stage 2.

    Args:
        fusion: of the modalities; a copy of it is calibrated first.
        head: from [N, M * D] to logits [N, K].
    """

    def __init__(self, fusion: CertaintyFusion, head: torch.nn.Module) -> None:
        super().__init__(self._join)
        self._fusion = copy.deepcopy(fusion)
        self._head = head
        self._head_temperature = 1.0

    @torch.no_grad()
    def calibrate(
        self, modalities: tuple[str, ...], features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        FusionReadout(self._fusion).calibrate(modalities, features, present, labels)
        full = present.all(dim=1)
        if full.any():
            logits = self._head(features[full].flatten(1))
            self._head_temperature = fit_temperature(logits, labels[full])
        super().calibrate(modalities, features, present, labels)

    def _join(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        _, _, logits = self._fusion(features, present)
        joint = self._head(features.flatten(1)) / self._head_temperature
        logits = torch.cat([logits, joint.unsqueeze(1)], dim=1)
        takes_part = torch.cat([present, present.all(dim=1, keepdim=True)], dim=1)
        weights = certainty_weights(logits, takes_part, self._fusion.fusion_temperature)
        shares = weights[:, :-1] + weights[:, -1:] / present.shape[1]
        return (weights.unsqueeze(-1) * logits).sum(dim=1), shares
