"""On-the-fly gradient modulation with generalisation enhancement (OGM-GE).

Source: Peng, Wei, Deng, Wang, Hu, "Balanced Multimodal Learning via On-the-fly Gradient
Modulation", CVPR 2022, arXiv 2203.15332. Joint training that shrinks the gradient of an encoder
that is ahead of the others, and adds noise to make up for the smaller steps:

    s_m   = mean over the batch of softmax(W_m f_m + b / M)[y]
    rho_m = s_m / mean over the other modalities of s
    k_m   = 1 - tanh(alpha * rho_m) where rho_m > 1, else 1
    grad_m <- k_m * grad_m + N(0, std(grad_m)^2)        per parameter tensor of encoder m

Differences from the paper: its ratio compares two modalities, here a modality is compared with the
mean of the others. s_m is a mean over the samples that have m, so that rare and frequent modalities
compare. Every weight matrix and kernel is modulated (the paper's are all convolutions); biases and
normalisation are not. Modulation lasts for the whole training. The head is always linear, because
s_m needs the share of each modality in the logits.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor, nn

from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods.base import Trial
from train.methods.joint import Joint, JointOptions


class GradientModulationOptions(JointOptions):
    """The strength of the modulation.

    Attributes:
        head: `linear`.
        alpha: Strength of the coefficient; the paper uses 0.1 to 0.8 by data set.
        noise: Whether noise is added (generalisation enhancement).
    """

    head: Literal["linear"] = "linear"
    alpha: Annotated[float, pydantic.Field(ge=0)] = 0.3
    noise: bool = True


class GradientModulation(Joint):
    """On-the-fly gradient modulation, see the module."""

    Options = GradientModulationOptions
    options: GradientModulationOptions
    head: nn.Linear
    has_mean_reference = False
    TRIALS = (Trial(), Trial({"alpha": 0.8}), Trial(learning_rate=2.0))

    def build_heads(self, model: MultimodalModel) -> None:
        super().build_heads(model)
        self._coefficients = [1.0] * len(model.modalities)

    def losses(self, model: MultimodalModel, rows: EncodedRows, epoch: int) -> dict[str, Tensor]:
        slots = len(self.modalities)
        with torch.no_grad():
            weight = self.head.weight.view(self.head.out_features, slots, -1)
            partial = torch.einsum("nmd,kmd->nmk", rows.features, weight)
            partial = partial + self.head.bias / slots
            self._coefficients = coefficients(
                partial, rows.present, rows.labels, self.options.alpha
            )
        return super().losses(model, rows, epoch)

    def adjust_gradients(self, model: MultimodalModel) -> None:
        for encoder, coefficient in zip(model.encoders, self._coefficients, strict=True):
            for parameter in encoder.parameters():
                if parameter.grad is None or parameter.ndim < 2:
                    continue
                deviation = parameter.grad.std()
                parameter.grad.mul_(coefficient)
                if self.options.noise:
                    parameter.grad.add_(torch.randn_like(parameter.grad) * deviation)


def coefficients(logits: Tensor, present: Tensor, labels: Tensor, alpha: float) -> list[float]:
    """Return k_m of each modality, in 0 .. 1; 1 for a modality that cannot be compared.

    Args:
        logits: [N, M, K], the contribution of each modality to the joint logits.
        present: bool [N, M].
        labels: int64 [N].
        alpha: See the module.
    """
    scores = logits.softmax(dim=-1)[torch.arange(len(labels)), :, labels]
    counts = present.sum(dim=0)
    means = (scores * present).sum(dim=0) / counts.clamp_min(1)
    result = []
    for slot in range(present.shape[1]):
        others = [m for m in range(present.shape[1]) if m != slot and counts[m]]
        if not others or not counts[slot]:
            result.append(1.0)
            continue
        ratio = means[slot] / means[others].mean()
        result.append(float(1 - torch.tanh(alpha * ratio)) if ratio > 1 else 1.0)
    return result
