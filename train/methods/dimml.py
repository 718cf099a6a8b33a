"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses.

    L = sum_m CE(h_m(f_m), y) + lambda_s sum_m CE(g(f_m), y) + lambda_d L_DUC   (after the warm-up)

No loss couples the encoders but L_DUC. The shared classifier g answers, by calibrated certainty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import duc_loss, modality_cross_entropy
from dimml.nn.model import DetachedModel
from train.methods.base import Method, Step, Trial, slot_cross_entropy
from train.methods.base import Options as BaseOptions
from train.readout import UNIFORM, BestUnimodal, FusionHeadReadout, FusionReadout, Readout

FUSION_HEAD_EPOCHS = 20
FUSION_HEAD_BATCH = 96
FUSION_HEAD_LEARNING_RATE = 1e-3


class Options(BaseOptions):
    """Switches for an ablation.

    Attributes:
        shared: the shared classifier is trained and answers; without it each modality's own head.
        duc: the DUC loss takes part after the warm-up.
        fusion_head: a second stage trains a linear head on all features together, the encoders
            frozen, which joins the answer where every modality is present.
    """

    shared: bool = True
    duc: bool = True
    fusion_head: bool = False


class Detached(Method):
    """See the module."""

    Options = Options
    TRIALS = (Trial(), Trial(learning_rate=0.5), Trial(learning_rate=2.0))
    uses_dimensions = True

    def __init__(self, options: Options, model: DetachedModel) -> None:
        super().__init__(options, model)
        self.uses_dimensions = options.duc
        self.finishes = options.fusion_head
        self.exports = not options.fusion_head
        slots, classes = len(model.modalities), model.fusion.shared_classifier.out_features
        if not options.shared:
            model.fusion.shared_classifier = PrivateClassifiers(slots, model.feature_dim, classes)
        if options.fusion_head:
            self.fusion_head = nn.Linear(slots * model.feature_dim, classes)

    def losses(
        self, model: DetachedModel, features: Tensor, present: Tensor, labels: Tensor, step: Step
    ) -> dict[str, Tensor]:
        config = step.config
        slots = dict(enumerate(model.modalities))
        by_name = {name: features[:, slot] for slot, name in slots.items()}
        masks = {name: present[:, slot] for slot, name in slots.items()}
        if self.options.shared:
            private = {n: model.private_heads[slot](by_name[n]) for slot, n in slots.items()}
            shared = {n: model.fusion.shared_classifier(values) for n, values in by_name.items()}
            terms = {
                "isolated": modality_cross_entropy(private, labels, masks),
                "shared": config.lambda_shared * modality_cross_entropy(shared, labels, masks),
            }
        else:
            logits = model.fusion.shared_classifier(features)
            terms = {"isolated": slot_cross_entropy(logits, present, labels)}
        if self.options.duc and config.lambda_duc > 0 and step.epoch >= config.warm_up:
            effective = {name: model.effective[slot] for slot, name in slots.items()}
            duc = duc_loss(by_name, effective, config.duc_temperature, masks, config.normalize)
            terms["duc"] = config.lambda_duc * duc
        return terms

    def answer(
        self, model: DetachedModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        probabilities, weights, _ = model.fusion(features, present)
        return probabilities.clamp_min(1e-30).log(), weights

    def finish(
        self, model: DetachedModel, features: Tensor, present: Tensor, labels: Tensor
    ) -> None:
        """Stage 2: the head on the samples that have every modality; nothing else changes."""
        full = present.all(dim=1)
        joined, labels = features[full].flatten(1), labels[full]
        optimizer = torch.optim.AdamW(self.fusion_head.parameters(), FUSION_HEAD_LEARNING_RATE)
        generator = torch.Generator().manual_seed(0)
        for _ in range(FUSION_HEAD_EPOCHS):
            order = torch.randperm(len(labels), generator=generator)
            for rows in order.split(FUSION_HEAD_BATCH):
                optimizer.zero_grad()
                functional.cross_entropy(self.fusion_head(joined[rows]), labels[rows]).backward()
                optimizer.step()

    def readout(self, model: DetachedModel) -> Readout:
        if self.options.fusion_head:
            return FusionHeadReadout(model.fusion, self.fusion_head)
        return FusionReadout(model.fusion)

    def references(self, model: DetachedModel) -> Mapping[str, Readout]:
        average = FusionReadout(copy.deepcopy(model.fusion), (UNIFORM,))
        return {"best-unimodal": BestUnimodal(model.fusion), "logit-average": average}
