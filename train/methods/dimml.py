"""The detached method (DI-MML, arXiv 2407.19514): isolated + shared + DUC losses.

    L = sum_m CE(h_m(f_m), y) + lambda_s sum_m CE(g(f_m), y) + lambda_d L_DUC   (after the warm-up)

Only L_DUC couples the encoders. The shared classifier g answers, weighted by calibrated certainty.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dimml.nn.fusion import blank_absent
from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import duc_loss, modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows, Rule
from train.methods.base import UNLABELLED, FeatureSource, Method, drop_modalities
from train.methods.settings import DetachedTraining, MethodOptions
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
"""Rows of a comparison, and the rule that joins the modalities in each."""


class DetachedOptions(MethodOptions):
    """Switches for an ablation, and the rule that joins the modalities.

    Attributes:
        shared: Whether the shared classifier is trained and answers; if not, each modality's own
            head answers.
        duc: Whether the DUC loss takes part after the warm-up.
        fusion_head: Whether a second stage freezes the encoders and trains a linear head on all
            features. The head joins the answer if every modality is present.
        fusion: The rule, see `train.calibration`; `paper` is the rule of the source.
    """

    shared: bool = True
    duc: bool = True
    fusion_head: bool = False
    fusion: Rule = "certainty"


class Detached(Method):
    """The detached method, see the module."""

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

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        config, labels = self.training_config, rows.labels
        features = self.by_modality(rows.features)
        labelled = self.by_modality(rows.present & (labels != UNLABELLED)[:, None])
        if self.options.shared:
            heads = zip(features, model.private_heads, strict=True)
            private = {name: head(features[name]) for name, head in heads}
            shared = {name: model.fusion.classifier(value) for name, value in features.items()}
            terms = {
                "isolated": modality_cross_entropy(private, labels, labelled),
                "shared": config.lambda_shared * modality_cross_entropy(shared, labels, labelled),
            }
        else:
            own = self.by_modality(model.fusion.classifier(rows.features))
            terms = {"isolated": modality_cross_entropy(own, labels, labelled)}
        if self.options.duc and config.lambda_duc > 0 and epoch >= config.warm_up:
            effective = dict(zip(self.modalities, model.effective, strict=True))
            # The DUC loss needs no label, so rows without one take part.
            present = self.by_modality(rows.present)
            duc = duc_loss(features, effective, config.duc_temperature, present, config.normalize)
            terms["duc"] = config.lambda_duc * duc
        return terms

    def finish(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Train the fusion head (stage 2) on the rows that have every modality."""
        train_head(self.fusion_head, rows.select(rows.present.all(dim=1)))

    def readout(self, model: MultimodalModel) -> Readout:
        if self.options.fusion_head:
            return FusionHeadReadout(model.fusion, self.fusion_head)
        return FusionReadout(model.fusion, self.options.fusion)

    def dimension_sets(self, model: MultimodalModel) -> dict[str, dict[str, int]] | None:
        """Return how many dimensions are effective, and how many each pair's student learns."""
        if not self.uses_dimensions:
            return None
        effective = dict(zip(model.modalities, model.effective, strict=True))
        return {
            "effective": {name: int(dimensions.sum()) for name, dimensions in effective.items()},
            "selected": {
                f"{teacher}->{student}": int((effective[teacher] & ~effective[student]).sum())
                for teacher, student in permutations(effective, 2)
            },
        }

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        """Return the simplest answers, and an ablation of the fusion that changes one thing each.

        Each row gets its own copy of the fusion, because calibration changes the fusion.
        """
        readouts: dict[str, Readout] = {"best-unimodal": BestUnimodal(model.fusion)}
        for name, rule in RULES.items():
            readouts[name] = FusionReadout(copy.deepcopy(model.fusion), rule)
        both = copy.deepcopy(model.fusion)
        both.classifier = both_heads(model)
        readouts["dimml+both-heads"] = FusionReadout(both, self.options.fusion)
        rows = training()
        full = rows.select(rows.present.all(dim=1))
        if len(full.labels):
            head = self._new_head(model)
            train_head(head, full)
            readouts["dimml+stage2"] = FusionHeadReadout(copy.deepcopy(model.fusion), head)
        dropped = self._new_head(model)
        train_head(dropped, rows, dropout=MODALITY_DROPOUT)
        readouts["dimml+stage2-dropout"] = Readout(lambda f, _: (dropped(f.flatten(1)), None))
        return readouts

    def _new_head(self, model: MultimodalModel) -> nn.Linear:
        width = len(model.modalities) * model.feature_dim
        # The head must not depend on, or change, the random numbers of anything else.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Linear(width, model.fusion.classifier.out_features)


def train_head(head: nn.Linear, rows: EncodedRows, dropout: float = 0.0) -> None:
    """Train a linear head on all features together (stage 2 of DI-MML, arXiv 2407.19514).

    Args:
        head: Linear from [N, M * D] to logits [N, K].
        rows: Labelled rows.
        dropout: Probability that a present modality is left out; at least one stays.
    """
    optimizer = torch.optim.AdamW(head.parameters(), FUSION_HEAD_LEARNING_RATE)
    generator = torch.Generator().manual_seed(0)
    for _ in range(FUSION_HEAD_EPOCHS):
        order = torch.randperm(len(rows.labels), generator=generator)
        for numbers in torch.split(order, FUSION_HEAD_BATCH):
            batch = rows.select(numbers)
            kept = drop_modalities(batch.present, dropout, generator)
            optimizer.zero_grad()
            logits = head(blank_absent(batch.features, kept).flatten(1))
            torch.autograd.backward(functional.cross_entropy(logits, batch.labels))
            optimizer.step()


def both_heads(model: MultimodalModel) -> PrivateClassifiers:
    """Return heads whose logits are the mean of the private head's and the shared classifier's."""
    shared = model.fusion.classifier
    private: list[Any] = list(model.private_heads)
    joined = PrivateClassifiers(len(private), model.feature_dim, shared.out_features)
    with torch.no_grad():
        joined.weight.copy_((torch.stack([head.weight for head in private]) + shared.weight) / 2)
        joined.bias.copy_((torch.stack([head.bias for head in private]) + shared.bias) / 2)
    return joined
