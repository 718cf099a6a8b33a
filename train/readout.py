"""How a trained model answers: uncalibrated logits, then a temperature per subset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.masks import blank_absent, subset_index
from train.calibration import EncodedRows, Rule, subset_rows
from train.choice import FusionChoice, choose_fusion, halves
from train.conformal import conformal_rows
from train.metrics import scores
from train.subset_blocks import SubsetBlock
from train.temperatures import fit_subset_temperatures

Answer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Features [N, M, D], 0 where absent, and present [N, M] to logits [N, K] and weights [N, M]."""


class Readout:
    """Calibrated probabilities for any subset: softmax(z / T_subset) (arXiv 1706.04599).

    Args:
        answer: The function that computes the logits z.

    Attributes:
        choice: What the calibration chose, if there was a choice.
    """

    def __init__(self, answer: Answer) -> None:
        self.choice: FusionChoice | None = None
        self._answer = answer
        self._temperatures = torch.ones(0)

    @torch.no_grad()
    def calibrate(self, modalities: tuple[str, ...], rows: EncodedRows) -> None:
        """Fit everything that is open on these rows, by the negative log-likelihood.

        Args:
            modalities: Names in slot order.
            rows: Labelled rows of the validation split.
        """

        def answer(block: SubsetBlock) -> Tensor:
            features = blank_absent(rows.features[block.rows], block.mask)
            return self._answer(features, block.mask)[0]

        width, sizes = rows.features[:1].numel(), range(1, len(modalities) + 1)
        self._temperatures = fit_subset_temperatures(
            answer, rows.present, rows.labels, width, sizes
        )

    @torch.no_grad()
    def __call__(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return probabilities [N, K], and shares [N, M] of the modalities if there are any."""
        logits, weights = self._answer(blank_absent(features, present), present)
        temperatures = self._temperatures[subset_index(present)]
        return (logits / temperatures.unsqueeze(-1)).softmax(dim=-1), weights


class FusionReadout(Readout):
    """The answer of a `CertaintyFusion`, calibrated as in a bundle.

    Args:
        fusion: The fusion, which is calibrated in place.
        rule: How the modalities are joined; `auto` chooses on the rows of the calibration.
    """

    def __init__(self, fusion: CertaintyFusion, rule: Rule | Literal["auto"] = "certainty") -> None:
        self.fusion = fusion
        self.choice: FusionChoice | None = None
        self._rule: Rule | None = None if rule == "auto" else rule

    @torch.no_grad()
    def calibrate(self, modalities: tuple[str, ...], rows: EncodedRows) -> None:
        self.choice = choose_fusion(self.fusion, modalities, rows, self._rule)

    @torch.no_grad()
    def __call__(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        probabilities, weights, _ = self.fusion(features, present)
        return probabilities, weights


class BestUnimodal(Readout):
    """The answer of the present modality that has the highest accuracy on validation.

    Args:
        fusion: The fusion whose logits per modality are used; it is not changed.
    """

    def __init__(self, fusion: CertaintyFusion) -> None:
        super().__init__(self._best)
        self._heads = fusion.classify
        self._accuracy = torch.zeros(0)

    @torch.no_grad()
    def calibrate(self, modalities: tuple[str, ...], rows: EncodedRows) -> None:
        answers = self._heads(rows.features, rows.present)[0].argmax(dim=-1)
        right = (answers == rows.labels.unsqueeze(1)) & rows.present
        self._accuracy = right.sum(dim=0) / rows.present.sum(dim=0).clamp_min(1)
        super().calibrate(modalities, rows)

    def _best(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self._accuracy.expand(present.shape).masked_fill(~present, -1.0).argmax(dim=1)
        weights = torch.nn.functional.one_hot(chosen, present.shape[1]).to(features.dtype)
        return (weights.unsqueeze(-1) * self._heads(features, present)[0]).sum(dim=1), weights


def cross_validate(
    readout: Readout, modalities: tuple[str, ...], validation: EncodedRows
) -> dict[str, float]:
    """Return accuracy and NLL, means over subsets, on validation rows that calibration did not see.

    Two halves of the rows that calibration may see take turns. The readout is left calibrated on
    the second half.

    Args:
        readout: An answer to calibrate.
        modalities: Names in slot order.
        validation: The encoded validation split.
    """
    fitting = validation.select(~conformal_rows(len(validation.labels)))
    measured = []
    for fitted, rest in halves(len(fitting.labels)):
        readout.calibrate(modalities, fitting.select(fitted))
        held_out = fitting.select(rest)
        for _, rows, mask in subset_rows(modalities, held_out.present):
            probabilities, _ = readout(held_out.features[rows], mask)
            measured.append(scores(probabilities, held_out.labels[rows]))
    return {k: sum(one[k] for one in measured) / len(measured) for k in ("accuracy", "nll")}
