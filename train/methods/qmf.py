"""Quality-aware multimodal fusion (QMF).

Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023,
arXiv 2306.02050. Late fusion weighted by the energy of each modality's logits, and a regulariser
that ranks the confidence of two samples opposite to their loss:

    c_m = logsumexp_k h_m(f_m)_k,   z = sum_m w_m h_m(f_m),   w_m = c_m / sum over the present c
    L = CE(z, y) + sum_m CE(h_m(f_m), y) + lambda sum_m R_m
    R_m = mean over pairs (i, j) of max(0, (l_i - l_j) + (c_i - c_j) * sign(l_i - l_j)), l_i > l_j

Simplified or ours: the paper ranks by the loss averaged over all epochs so far, here l is the
loss in this batch; pairs are neighbours in the shuffled batch; losses and confidences are scaled to
0 .. 1 within the batch, as the paper scales its losses; the weights are divided by their sum, so
that the logits of every subset are of one scale, are kept above 0, and receive no gradient.
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
from train.methods.base import Method, MethodOptions, Trial

LEAST = 1e-3
"""Energy of a modality whose own is lower."""


class QualityAwareOptions(MethodOptions):
    """Weight of the regulariser.

    Attributes:
        rank: lambda; the authors' code adds the regulariser with weight 1.
    """

    rank: Annotated[float, pydantic.Field(ge=0)] = 1.0


class QualityAwareFusion(Method):
    """See the module."""

    Options = QualityAwareOptions
    options: QualityAwareOptions
    TRIALS = (Trial(), Trial({"rank": 0.1}), Trial(learning_rate=2.0))

    def build_heads(self, model: MultimodalModel) -> None:
        slots, classes = len(model.modalities), model.fusion.classifier.out_features
        self.heads = PrivateClassifiers(slots, model.feature_dim, classes)

    def losses(
        self, model: MultimodalModel, features: Tensor, present: Tensor, labels: Tensor, epoch: int
    ) -> dict[str, Tensor]:
        logits = self.heads(features)
        rank = torch.stack(
            [
                rank_loss(logits[present[:, slot], slot], labels[present[:, slot]])
                for slot in range(len(self.modalities))
            ]
        ).sum()
        fused, _ = fuse_by_energy(logits, present)
        return {
            "fused": masked_cross_entropy(fused, labels, present.any(dim=1)),
            "isolated": modality_cross_entropy(
                self.by_modality(logits), labels, self.by_modality(present)
            ),
            "rank": self.options.rank * rank,
        }

    def answer(
        self, model: MultimodalModel, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        return fuse_by_energy(self.heads(features), present)


def fuse_by_energy(logits: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Fused logits [N, K] and the modalities' shares [N, M].

    Args:
        logits: [N, M, K].
        present: bool [N, M]; a row with nothing has shares of 0.
    """
    energy = logits.detach().logsumexp(dim=-1).clamp_min(LEAST) * present
    weights = energy / energy.sum(dim=1, keepdim=True).clamp_min(LEAST)
    return (weights.unsqueeze(-1) * logits).sum(dim=1), weights


def rank_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """R of one modality: 0 where every more confident sample of a pair has the smaller loss.

    Args:
        logits: [n, K] of the rows that have it.
        labels: int64 [n].
    """
    if len(labels) < 2:
        return logits.sum() * 0
    loss = _unit(functional.cross_entropy(logits.detach(), labels, reduction="none"))
    confidence = logits.logsumexp(dim=-1)
    low, high = confidence.detach().aminmax()
    confidence = (confidence - low) / (high - low).clamp_min(1e-6)
    harder = loss - loss.roll(-1)
    margin = harder.abs() + torch.sign(harder) * (confidence - confidence.roll(-1))
    return margin.clamp_min(0).mean()


def _unit(values: Tensor) -> Tensor:
    low, high = values.aminmax()
    return (values - low) / (high - low).clamp_min(1e-6)
