"""Joint training: the features side by side, one head, one loss.

    z = W [f_1; ...; f_M] + b,   L = CE(z, y)                                     head: linear
    z = W dropout(GELU(V [f_1; ...; f_M] + a)) + b,   L = CE(z, y)                head: mlp

This is the baseline of every paper on modality competition (Wang et al., "What Makes Training
Multi-Modal Classification Networks Hard?", CVPR 2020, arXiv 1905.12681). The slot of an absent
modality holds zeros, in training and in the answer. With `fill: mean` the answer fills that slot
with the modality's mean training feature. The linear head is the published one. It adds one share
of the logits per modality, so it cannot express a label that only a combination of modalities
tells. The mlp head can; its hidden layer has D units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from dimml.nn.losses import masked_cross_entropy
from dimml.nn.masks import blank_absent
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import FeatureSource, Method, Trial
from train.methods.settings import MethodOptions
from train.readout import Readout

MLP_DROPOUT = 0.2
"""Probability that training drops a hidden unit of the mlp head."""


class JointOptions(MethodOptions):
    """The form of the head, and the content of an absent modality's slot in the answer.

    Attributes:
        head: `linear`, or `mlp` with one hidden layer.
        fill: `zeros`, or the `mean` training feature.
    """

    head: Literal["linear", "mlp"] = "linear"
    fill: Literal["zeros", "mean"] = "zeros"


class Joint(Method):
    """Joint training, see the module.

    Attributes:
        head: From [N, M * D] to logits [N, K].
        mean: [M, D], the mean training feature of each modality, set after training.
        has_mean_reference: Whether a comparison also shows the answer with `fill: mean`.
    """

    Options: ClassVar[type[MethodOptions]] = JointOptions
    options: JointOptions
    finishes = True
    has_mean_reference = True
    TRIALS = (Trial(), Trial({"head": "mlp"}), Trial(learning_rate=2.0))
    head: nn.Module
    mean: Tensor

    def build_heads(self, model: MultimodalModel) -> None:
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        width = slots * model.feature_dim
        if self.options.head == "linear":
            self.head = nn.Linear(width, classes)
        else:
            self.head = nn.Sequential(
                nn.Linear(width, model.feature_dim),
                nn.GELU(),
                nn.Dropout(MLP_DROPOUT),
                nn.Linear(model.feature_dim, classes),
            )
        self.register_buffer("mean", torch.zeros(slots, model.feature_dim))

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        logits = self._head(rows.features)
        labelled = rows.present.any(dim=1)
        return {"joint": masked_cross_entropy(logits, rows.labels, labelled, self.class_weights)}

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if self.options.fill == "mean":
            return self._filled(features, present), None
        return self._head(features), None

    def finish(self, model: MultimodalModel, rows: EncodedRows) -> None:
        """Keep the mean feature of each modality over the rows that have the modality."""
        total = blank_absent(rows.features, rows.present).sum(dim=0)
        self.mean.copy_(total / rows.present.sum(dim=0).clamp_min(1).unsqueeze(-1))

    def references(self, model: MultimodalModel, training: FeatureSource) -> Mapping[str, Readout]:
        if not self.has_mean_reference:
            return {}
        return {"joint-mean": Readout(lambda values, mask: (self._filled(values, mask), None))}

    def _head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features.flatten(1))
        return logits

    def _filled(self, features: Tensor, present: Tensor) -> Tensor:
        return self._head(torch.where(present.unsqueeze(-1), features, self.mean))
