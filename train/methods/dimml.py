"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses.

    L = sum_m CE(h_m(f_m), y) + lambda_s sum_m CE(g(f_m), y) + lambda_d L_DUC   (after the warm-up)

No loss couples the encoders but L_DUC. The shared classifier g answers, by calibrated certainty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import duc_loss, modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import Rule
from train.data.cache import UNLABELLED
from train.methods.base import (
    Method,
    Step,
    Training,
    Trial,
    drop_modalities,
    slot_cross_entropy,
)
from train.methods.base import Options as BaseOptions
from train.readout import BestUnimodal, FusionHeadReadout, FusionReadout, Readout

FUSION_HEAD_EPOCHS = 20
FUSION_HEAD_BATCH = 96
FUSION_HEAD_LEARNING_RATE = 1e-3
MODALITY_DROPOUT = 0.3
RULES: dict[str, Rule] = {
    "logit-average": "average",
    "dimml+paper": "paper",
    "dimml+certainty": "certainty",
    "dimml+pooled": "pooled",
}
"""Row of a comparison to the rule that joins the modalities in it."""


class Options(BaseOptions):
    """Switches for an ablation, and how the modalities are joined.

    Attributes:
        shared: the shared classifier is trained and answers; without it each modality's own head.
        duc: the DUC loss takes part after the warm-up.
        fusion_head: a second stage trains a linear head on all features together, the encoders
            frozen, which joins the answer where every modality is present.
        fusion: the rule, see `train.calibration`; `paper` is that of the source.
    """

    shared: bool = True
    duc: bool = True
    fusion_head: bool = False
    fusion: Rule = "certainty"


class Detached(Method):
    """See the module."""

    Options = Options
    TRIALS = (Trial(), Trial(learning_rate=0.5), Trial(learning_rate=2.0))
    uses_dimensions = True
    uses_unlabelled = True

    def __init__(self, options: Options, model: MultimodalModel) -> None:
        super().__init__(options, model)
        self.uses_dimensions = self.uses_unlabelled = options.duc
        self.finishes = options.fusion_head
        self.exports = not options.fusion_head
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        if not options.shared:
            model.fusion.classifier = PrivateClassifiers(slots, model.feature_dim, classes)
        if options.fusion_head:
            self.fusion_head = nn.Linear(slots * model.feature_dim, classes)

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
    ) -> dict[str, Tensor]:
        config = step.config
        slots = dict(enumerate(model.modalities))
        by_name = {name: features[:, slot] for slot, name in slots.items()}
        masks = {name: present[:, slot] for slot, name in slots.items()}
        known = present & (labels != UNLABELLED)[:, None]
        labelled = {name: known[:, slot] for slot, name in slots.items()}
        if self.options.shared:
            private = {n: model.private_heads[slot](by_name[n]) for slot, n in slots.items()}
            shared = {n: model.fusion.classifier(values) for n, values in by_name.items()}
            terms = {
                "isolated": modality_cross_entropy(private, labels, labelled),
                "shared": config.lambda_shared * modality_cross_entropy(shared, labels, labelled),
            }
        else:
            logits = model.fusion.classifier(features)
            terms = {"isolated": slot_cross_entropy(logits, known, labels)}
        if self.options.duc and config.lambda_duc > 0 and step.epoch >= config.warm_up:
            effective = {name: model.effective[slot] for slot, name in slots.items()}
            duc = duc_loss(by_name, effective, config.duc_temperature, masks, config.normalize)
            terms["duc"] = config.lambda_duc * duc
        return terms

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        probabilities, weights, _ = model.fusion(features, present)
        return probabilities.clamp_min(1e-30).log(), weights

    def finish(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        """Stage 2: the head on the samples that have every modality; nothing else changes."""
        full = present.all(dim=1)
        train_head(self.fusion_head, features[full], present[full], labels[full])

    def readout(self, model: MultimodalModel) -> Readout:
        if self.options.fusion_head:
            return FusionHeadReadout(model.fusion, self.fusion_head)
        return FusionReadout(model.fusion, self.options.fusion)

    def references(self, model: MultimodalModel, training: Training) -> Mapping[str, Readout]:
        """The simplest answers, and the ablation of the fusion, one change at a time."""
        rows: dict[str, Readout] = {"best-unimodal": BestUnimodal(model.fusion)}
        for name, rule in RULES.items():
            rows[name] = FusionReadout(copy.deepcopy(model.fusion), rule)
        both = copy.deepcopy(model.fusion)
        both.classifier = both_heads(model)
        rows["dimml+both-heads"] = FusionReadout(both, self.options.fusion)
        features, present, labels = training()
        full = present.all(dim=1)
        if full.any():
            head = self._new_head(model)
            train_head(head, features[full], present[full], labels[full])
            rows["dimml+stage2"] = FusionHeadReadout(copy.deepcopy(model.fusion), head)
        dropped = self._new_head(model)
        train_head(dropped, features, present, labels, dropout=MODALITY_DROPOUT)
        rows["dimml+stage2-dropout"] = Readout(lambda f, _: (dropped(f.flatten(1)), None))
        return rows

    def _new_head(self, model: MultimodalModel) -> nn.Linear:
        width = len(model.modalities) * model.feature_dim
        # Nothing else may draw other numbers for it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Linear(width, model.fusion.classifier.out_features)


def train_head(
    head: nn.Linear, features: Tensor, present: Tensor, labels: Tensor, dropout: float = 0.0
) -> None:
    """Trains a linear head on all features together, as stage 2 of DI-MML, arXiv 2407.19514.

    Args:
        head: from [N, M * D] to logits [N, K].
        features: [N, M, D], anything where absent.
        present: bool [N, M].
        labels: int64 [N].
        dropout: the probability that a present modality is left out, at least one staying.
    """
    optimizer = torch.optim.AdamW(head.parameters(), FUSION_HEAD_LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(FUSION_HEAD_EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(FUSION_HEAD_BATCH):
            kept = drop_modalities(present[rows], dropout, generator)
            optimizer.zero_grad()
            logits = head(blank_absent(features[rows], kept).flatten(1))
            functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()


def both_heads(model: MultimodalModel) -> PrivateClassifiers:
    """Each modality's private head and the shared one as one: the mean of their logits."""
    shared = model.fusion.classifier
    private: list[Any] = list(model.private_heads)
    joined = PrivateClassifiers(len(private), model.feature_dim, shared.out_features)
    with torch.no_grad():
        for slot, head in enumerate(private):
            joined.weight[slot] = (head.weight + _of_slot(shared.weight, slot, 2)) / 2
            joined.bias[slot] = (head.bias + _of_slot(shared.bias, slot, 1)) / 2
    return joined


def _of_slot(values: Any, slot: int, dimensions: int) -> Tensor:
    """What a head of all modalities, or heads of each, have for one."""
    found: Tensor = values if values.ndim == dimensions else values[slot]
    return found
