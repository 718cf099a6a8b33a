"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses.

    L = sum_m CE(h_m(f_m), y) + lambda_s sum_m CE(g(f_m), y) + lambda_d L_DUC   (after the warm-up)

No loss couples the encoders but L_DUC. The shared classifier g answers, by calibrated certainty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import duc_loss, modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import Rule
from train.methods.base import (
    UNLABELLED,
    FeatureSource,
    Method,
    MethodOptions,
    drop_modalities,
)
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


class DetachedTraining(MethodOptions):
    """The settings of the detached method that stand in every recipe's `training`.

    They stand there, and not among the method's `options`, because a comparison trains all methods
    with one recipe. The recipe's `TrainingConfig` inherits them; only this method reads them.

    Attributes:
        warm_up: epochs before the DUC loss joins.
        lambda_shared: weight of the shared classifier's cross-entropy.
        lambda_duc: weight of the DUC loss.
        duc_temperature: its temperature.
        normalize: whether its vectors are normalised.
        recompute_every: epochs between computations of the effective dimensions; None: once.
    """

    warm_up: pydantic.NonNegativeInt = 8
    lambda_shared: pydantic.NonNegativeFloat = 1.0
    lambda_duc: pydantic.NonNegativeFloat = 1.0
    duc_temperature: pydantic.PositiveFloat = 10.0
    normalize: bool = False
    recompute_every: Annotated[int, pydantic.Field(ge=1)] | None = None


class DetachedOptions(MethodOptions):
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

    Options = DetachedOptions
    options: DetachedOptions
    training_config: DetachedTraining

    def build_heads(self, model: MultimodalModel) -> None:
        self.uses_dimensions = self.options.duc
        self.finishes = self.options.fusion_head
        self.exports = not self.options.fusion_head
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        if not self.options.shared:
            model.fusion.classifier = PrivateClassifiers(slots, model.feature_dim, classes)
        if self.options.fusion_head:
            self.fusion_head = nn.Linear(slots * model.feature_dim, classes)

    def uses_unlabelled(self, epochs: int) -> bool:
        config = self.training_config
        return self.options.duc and config.lambda_duc > 0 and config.warm_up < epochs

    def needs_dimensions(self, epoch: int) -> bool:
        since, every = epoch - self.training_config.warm_up, self.training_config.recompute_every
        if since < 0 or not self.options.duc:
            return False
        return since == 0 if every is None else since % every == 0

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        config = self.training_config
        values = self.by_modality(features)
        labelled = self.by_modality(present & (labels != UNLABELLED)[:, None])
        if self.options.shared:
            heads = zip(values, model.private_heads, strict=True)
            private = {name: head(values[name]) for name, head in heads}
            shared = {name: model.fusion.classifier(value) for name, value in values.items()}
            terms = {
                "isolated": modality_cross_entropy(private, labels, labelled),
                "shared": config.lambda_shared * modality_cross_entropy(shared, labels, labelled),
            }
        else:
            own = self.by_modality(model.fusion.classifier(features))
            terms = {"isolated": modality_cross_entropy(own, labels, labelled)}
        if self.options.duc and config.lambda_duc > 0 and epoch >= config.warm_up:
            effective = dict(zip(self.modalities, model.effective, strict=True))
            masks = self.by_modality(present)
            duc = duc_loss(values, effective, config.duc_temperature, masks, config.normalize)
            terms["duc"] = config.lambda_duc * duc
        return terms

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

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
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
        joined.weight.copy_((torch.stack([head.weight for head in private]) + shared.weight) / 2)
        joined.bias.copy_((torch.stack([head.bias for head in private]) + shared.bias) / 2)
    return joined
