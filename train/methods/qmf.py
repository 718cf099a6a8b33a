"""Quality-aware multimodal fusion (QMF).

Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023,
arXiv 2306.02050. Late fusion weighted by the energy of each modality's logits, and a regulariser
that ranks the confidence of two samples opposite to their loss:

    c_m = logsumexp_k h_m(f_m)_k,   z = sum_m w_m h_m(f_m),   w_m = c_m / sum over the present c
    L = CE(z, y) + sum_m CE(h_m(f_m), y) + lambda sum_m R_m
    R_m = mean over pairs (i, j) of max(0, (l_i - l_j) + (c_i - c_j) * sign(l_i - l_j)), l_i > l_j

Differences from the paper: it ranks by the loss averaged over all epochs so far, here l is the loss
in this batch. Pairs are neighbours in the shuffled batch. Losses and confidences are scaled to
0 .. 1 within the batch, as the paper scales its losses. The weights are divided by their sum, so
that the logits of every subset have one scale; they are kept above 0 and receive no gradient.
"""

from __future__ import annotations

from typing import Annotated

import pydantic
import torch
from torch import Tensor
from torch.nn import functional

from dimml.nn.heads import PrivateClassifiers
from dimml.nn.losses import masked_cross_entropy, modality_cross_entropy
from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Method, Trial
from train.methods.settings import MethodOptions

MIN_ENERGY = 1e-3
"""The lowest energy of a modality; a lower one is raised to it."""


class QualityAwareOptions(MethodOptions):
    """The weight of the regulariser.

    Attributes:
        rank: lambda; the authors' code adds the regulariser with weight 1.
    """

    rank: Annotated[float, pydantic.Field(ge=0)] = 1.0


class QualityAwareFusion(Method):
    """Quality-aware multimodal fusion, see the module."""

    Options = QualityAwareOptions
    options: QualityAwareOptions
    TRIALS = (Trial(), Trial({"rank": 0.1}), Trial(learning_rate=2.0))

    def build_heads(self, model: MultimodalModel) -> None:
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        self.heads = PrivateClassifiers(slots, model.feature_dim, classes)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        labels, weights = rows.labels, self.class_weights
        logits = self.heads(rows.features)
        present = self.by_modality(rows.present)
        slots = enumerate(present.values())
        ranks = [rank_loss(logits[has, slot], labels[has]) for slot, has in slots]
        fused, _ = fuse_by_energy(logits, rows.present)
        return {
            "fused": masked_cross_entropy(fused, labels, rows.present.any(dim=1), weights),
            "isolated": modality_cross_entropy(self.by_modality(logits), labels, present, weights),
            "rank": self.options.rank * torch.stack(ranks).sum(),
        }

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return fuse_by_energy(self.heads(features), present)


def fuse_by_energy(logits: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return fused logits [N, K] and the share [N, M] of each modality.

    Args:
        logits: [N, M, K].
        present: bool [N, M]; a row without any modality has shares of 0.
    """
    energy = logits.detach().logsumexp(dim=-1).clamp_min(MIN_ENERGY) * present
    weights = energy / energy.sum(dim=1, keepdim=True).clamp_min(MIN_ENERGY)
    return (weights.unsqueeze(-1) * logits).sum(dim=1), weights


def rank_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return R of one modality: 0 if the more confident sample of each pair has the smaller loss.

    Args:
        logits: [n, K] of the rows that have the modality.
        labels: int64 [n].
    """
    if len(labels) < 2:
        return logits.sum() * 0
    loss = _scale_to_unit(functional.cross_entropy(logits.detach(), labels, reduction="none"))
    confidence = logits.logsumexp(dim=-1)
    low, high = confidence.detach().aminmax()
    confidence = (confidence - low) / (high - low).clamp_min(1e-6)
    harder = loss - loss.roll(-1)
    margin = harder.abs() + torch.sign(harder) * (confidence - confidence.roll(-1))
    return margin.clamp_min(0).mean()


def _scale_to_unit(values: Tensor) -> Tensor:
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp_min(1e-6)
