"""Gated modality experts with a "more versus fewer" (MoFe) ranking loss (SimMLM).

Source: Li, Chen, Han, "SimMLM: A Simple Framework for Multi-modal Learning with Missing Modality",
ICCV 2025, arXiv 2507.19264. Each modality has an expert, its encoder and a linear head h_m. A gate
G sees the features of all present modalities and weights the experts' logits:

    z(S) = sum_m w_m h_m(f_m),   w = softmax over the m in S of G([f_1; ...; f_M])_m
    stage 1:  L = sum_m CE(h_m(f_m), y)
    stage 2:  L = CE(z(S+), y) + CE(z(S-), y) + lambda * MoFe,   S- within S+, drawn per sample
              MoFe = mean over samples of max(0, CE(z(S+), y) - CE(z(S-), y))

The slot of an absent modality holds zeros, and its gate is minus infinity. The answer is z of the
present modalities. G has one hidden layer.

Differences from the paper: its gate reads the raw inputs, here the gate reads the features, so that
one gate fits any kind of modality. The gate has one value per modality; the authors' segmentation
code has one per modality and class. Stage 1 is the first part of the same run, under one learning
rate schedule, where the paper trains the experts in runs of their own. The last layer of the gate
starts at zero, so that all experts have the same weight in stage 1, and an epoch of stage 1 can be
the best one. S+ and S- are parts of one random order of the modalities that a sample has; their
sizes are drawn uniformly and differ, except for a sample with one modality. The authors' code draws
both sets from a list of all subsets until one contains the other.
"""

from __future__ import annotations

from typing import Annotated

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import modality_cross_entropy
from dimml.nn.masks import blank_absent
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Method, Trial
from train.methods.settings import MethodOptions

GATE_WIDTH = 64
"""Size of the gate's hidden layer."""


class ModalityExpertsOptions(MethodOptions):
    """The weight of the ranking loss, and the length of stage 1.

    Attributes:
        rank: lambda; the paper uses 0.1, and finds 0.01 to 0.5 similar.
        independent: Share of the epochs that belong to stage 1; 0 leaves stage 1 out.
    """

    rank: Annotated[float, pydantic.Field(ge=0)] = 0.1
    independent: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.5


class ModalityExperts(Method):
    """Gated modality experts, see the module.

    Attributes:
        heads: h_m of every modality.
        gate: G, from [N, M * D] to gate values [N, M].
    """

    Options = ModalityExpertsOptions
    options: ModalityExpertsOptions
    TRIALS = (Trial(), Trial({"independent": 0.0}), Trial(learning_rate=2.0))

    def build_heads(self, model: MultimodalModel) -> None:
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        self.heads = PrivateClassifiers(slots, model.feature_dim, classes)
        last = nn.Linear(GATE_WIDTH, slots)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.gate = nn.Sequential(nn.Linear(slots * model.feature_dim, GATE_WIDTH), nn.ReLU(), last)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        if epoch < self.options.independent * self.training_config.epochs:
            logits = self.by_modality(self.heads(rows.features))
            present = self.by_modality(rows.present)
            return {
                "isolated": modality_cross_entropy(logits, rows.labels, present, self.class_weights)
            }
        rows = rows.select(rows.present.any(dim=1))
        more, fewer = (
            self._cross_entropy(model, rows, kept) for kept in nested_subsets(rows.present)
        )
        count = max(1, len(rows.labels))
        return {
            "more": more.sum() / count,
            "fewer": fewer.sum() / count,
            "rank": self.options.rank * (more - fewer).clamp_min(0).sum() / count,
        }

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        weights = gate_weights(self.gate(features.flatten(1)), present)
        return (weights.unsqueeze(-1) * self.heads(features)).sum(dim=1), weights

    def _cross_entropy(self, model: MultimodalModel, rows: EncodedRows, kept: Tensor) -> Tensor:
        """Return the cross-entropy [N] of the answer from the modalities that are kept."""
        logits, _ = self.answer(model, blank_absent(rows.features, kept), kept)
        weight = self.class_weights
        return functional.cross_entropy(logits, rows.labels, weight=weight, reduction="none")


def gate_weights(gates: Tensor, present: Tensor) -> Tensor:
    """Return the shares [N, M] of the present modalities: their softmax of the gate values [N, M].

    A row without any modality has equal shares, because it must not bring NaN into a gradient.
    """
    return gates.masked_fill(~present, torch.finfo(gates.dtype).min).softmax(dim=-1)


def nested_subsets(present: Tensor) -> tuple[Tensor, Tensor]:
    """Draw S+ and S- of each row: bool [N, M] each, S- within S+ within the present modalities.

    Both sets have a modality if the row has one, and S- is smaller than S+ if the row has two.
    """
    scores = torch.rand(present.shape).to(present.device).masked_fill(~present, -1.0)
    ranks = scores.argsort(dim=1, descending=True).argsort(dim=1)
    available = present.sum(dim=1)
    draws = torch.rand(2, len(present)).to(present.device)
    fewer = 1 + (draws[0] * (available - 1)).long().clamp_min(0)
    more = fewer + 1 + (draws[1] * (available - fewer)).long()
    return (ranks < more[:, None]) & present, (ranks < fewer[:, None]) & present
