"""Late fusion: classify each present modality, then sum the logits weighted by certainty.

Source: DI-MML, arXiv 2407.19514, certainty-aware logit weighting. Three extensions: any non-empty
subset of modalities gets a prediction; certainty is calibrated, and lower for input that is unlike
the training data (`dimml.nn.distance`); and heads that see all features together take part where
they help (`dimml.nn.interaction`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dimml.nn.distance import DistanceScale
from dimml.nn.heads import PrivateClassifiers
from dimml.nn.interaction import Interaction
from dimml.nn.masks import blank_absent, subset_index
from dimml.samples import MAX_MODALITIES


def certainty(logits: Tensor) -> Tensor:
    """Return the certainty of each set of logits: c = max_k softmax(z)_k.

    Source: DI-MML, arXiv 2407.19514, certainty-aware logit weighting.

    Args:
        logits: [..., K classes].

    Returns:
        [...], each in 1/K .. 1.
    """
    return logits.softmax(dim=-1).amax(dim=-1)


def certainty_weights(
    sure: Tensor, present: Tensor, temperature: float | Tensor, bias: Tensor | None = None
) -> Tensor:
    """Return the weight of each modality: w = softmax over the present m of (c_m / T + b_m).

    Weights depend on one row only, so a prediction never depends on the rest of the batch.
    Source: DI-MML, arXiv 2407.19514, certainty-aware logit weighting; the mask and b are added.

    Args:
        sure: c, the `certainty` of each modality, [N samples, M modalities]; absent slots may hold
            anything finite.
        present: bool [N samples, M modalities].
        temperature: T, positive; a high temperature makes the weights equal.
        bias: b, [M modalities]; favours a modality over others of equal certainty.

    Returns:
        [N samples, M modalities]; rows sum to 1 and absent modalities have exactly 0. A row
        without a present modality is NaN.
    """
    scores = sure / temperature
    if bias is not None:
        scores = scores + bias
    return scores.masked_fill(~present, float("-inf")).softmax(dim=-1)


class CertaintyFusion(nn.Module):
    """The module behind `classifier.onnx`: classifier, calibration, certainty weighting and mask.

    Temperatures and biases are buffers, not parameters, because calibration fits them on the
    validation split after training. Before `set_calibration`, temperatures are 1 and biases 0.

    Attributes:
        feature_dim: D, the first dimensions of a feature, which `classifier` reads. Any others
            belong to the interaction heads.
        classifier: Maps D dimensions to K classes: either one linear layer that all modalities
            share, or `PrivateClassifiers`, with one linear layer per modality.
        modality_temperature: [M modalities]; divides the logits of each modality.
        fusion_temperature: Scalar; the T of `certainty_weights`.
        subset_temperature: [2 ** M subsets], numbered by `subset_index`; divides the fused logits.
            It is 1 for a one-modality subset, whose prediction is the softmax of that modality's
            logits. The value of the empty subset (index 0) is never used.
        modality_bias: [M modalities]; the b of `certainty_weights`.
        distance: Gives the s by which the logits of a modality are divided; 1 until it is fitted.
        interaction: The interaction heads and their shares, or None.
    """

    modality_temperature: Tensor
    fusion_temperature: Tensor
    subset_temperature: Tensor
    modality_bias: Tensor

    def __init__(self, feature_dim: int, num_classes: int, num_modalities: int) -> None:
        """Build an uncalibrated fusion for D = `feature_dim`, K = `num_classes` and M modalities.

        Raises:
            ValueError: If `num_modalities` is not in 1 .. 10.
        """
        super().__init__()
        if not 1 <= num_modalities <= MAX_MODALITIES:
            raise ValueError(
                f"num_modalities must lie in 1 .. {MAX_MODALITIES}, got {num_modalities}: each "
                "subset has a temperature, so each modality doubles the number of temperatures"
            )
        self.feature_dim = feature_dim
        self.classifier: nn.Linear | PrivateClassifiers = nn.Linear(feature_dim, num_classes)
        self.distance = DistanceScale(num_modalities, feature_dim, num_classes)
        self.interaction: Interaction | None = None
        self.register_buffer("modality_temperature", torch.ones(num_modalities))
        self.register_buffer("fusion_temperature", torch.tensor(1.0))
        self.register_buffer("subset_temperature", torch.ones(2**num_modalities))
        self.register_buffer("modality_bias", torch.zeros(num_modalities))

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify samples by the features of their present modalities.

        Args:
            features: [N samples, M modalities, D dimensions, or more with an interaction]; absent
                slots may hold anything.
            present: bool [N samples, M modalities], at least one per row.

        Returns:
            probabilities: [N samples, K classes], rows summing to 1.
            weights: [N samples, M modalities], see `fuse`.
            modality_logits: [N samples, M modalities, K classes], the classifier's logits divided
                by `modality_temperature` and by s; 0 where absent.

        Raises:
            ValueError: If the number of modalities is not M.
        """
        self._check_modalities(features, present)
        logits, scale = self.classify(features, present)
        logits = logits / self.modality_temperature.unsqueeze(-1)
        joint = self.joint_logits(features, present, scale)
        probabilities, weights = self.fuse(logits, present, scale, joint)
        return probabilities, weights, logits

    def classify(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of each modality, divided by s but not calibrated, and s.

        Args:
            features: [N, M, D or more]; absent slots may hold anything.
            present: bool [N, M].

        Returns:
            Logits [N, M, K] and s [N, M]; 0 and 1 where absent.
        """
        late = blank_absent(features[..., : self.feature_dim], present)
        scale = torch.where(present, self.distance(late), 1.0)
        return blank_absent(self.classifier(late) / scale.unsqueeze(-1), present), scale

    def joint_logits(self, features: Tensor, present: Tensor, scale: Tensor) -> Tensor | None:
        """Return the logits of the interaction heads [N, H, K], or None without heads.

        They are divided by the largest s of the row, because a head sees all modalities.
        """
        if self.interaction is None:
            return None
        logits: Tensor = self.interaction(features, present)
        return logits / scale.amax(dim=1)[:, None, None]

    def fuse(
        self,
        modality_logits: Tensor,
        present: Tensor,
        scale: Tensor | None = None,
        joint_logits: Tensor | None = None,
        sure: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Fuse the calibrated logits z_m of the modalities: softmax(sum_m w_m z_m / T_subset).

        With the logits of interaction heads, `Interaction.mix` follows.

        Calibration calls this method directly, with precomputed logits.

        Args:
            modality_logits: [N samples, M modalities, K classes]; absent slots may hold anything.
            present: bool [N samples, M modalities], at least one per row.
            scale: s [N samples, M modalities], or None for 1. The logits are divided by it already.
            joint_logits: [N samples, H heads, K classes], or None to leave the heads out.
            sure: The `certainty` of the logits, [N samples, M modalities], or None to compute it.

        Returns:
            probabilities [N samples, K classes] and weights [N samples, M modalities], which are
            the `certainty_weights` divided by s and the modalities' parts of the heads' share.

        Raises:
            ValueError: If the number of modalities is not M.
        """
        self._check_modalities(modality_logits, present)
        logits = blank_absent(modality_logits, present)
        sure = certainty(logits) if sure is None else sure
        weights = certainty_weights(sure, present, self.fusion_temperature, self.modality_bias)
        fused = (weights.unsqueeze(-1) * logits).sum(dim=1)
        temperature = self.subset_temperature[subset_index(present)]
        fused = fused / temperature.unsqueeze(-1)
        if scale is not None:
            weights = weights / scale
            weights = weights / weights.sum(dim=1, keepdim=True)
        if self.interaction is None or joint_logits is None:
            return fused.softmax(dim=-1), weights
        return self.interaction.mix(fused, joint_logits, weights, present)

    def set_calibration(
        self,
        modality_temperature: Sequence[float] | Tensor,
        fusion_temperature: float | Tensor,
        subset_temperature: Sequence[float] | Tensor,
        modality_bias: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Set the temperatures and the biases; on an error, set none of them.

        Args:
            modality_temperature: [M modalities].
            fusion_temperature: Scalar.
            subset_temperature: [2 ** M subsets], numbered by `subset_index`. One-modality subsets
                must have 1, because `modality_temperature` calibrates them.
            modality_bias: [M modalities]; None for zeros.

        Raises:
            ValueError: If a shape is wrong, a temperature is not positive and finite, a
                one-modality subset has a temperature other than 1, or a bias is not finite.
        """
        bias = torch.zeros_like(self.modality_bias) if modality_bias is None else modality_bias
        values = {
            "modality_temperature": modality_temperature,
            "fusion_temperature": fusion_temperature,
            "subset_temperature": subset_temperature,
            "modality_bias": bias,
        }
        checked = {name: self._checked(name, value) for name, value in values.items()}
        singletons = checked["subset_temperature"][[2**m for m in range(len(self.modality_bias))]]
        if not bool((singletons == 1).all()):
            raise ValueError(
                "subset_temperature of one-modality subsets (indices 1, 2, 4, ...) must be 1, got "
                f"{singletons.tolist()}; calibrate single modalities by modality_temperature"
            )
        for name, tensor in checked.items():
            self.get_buffer(name).copy_(tensor)

    def _check_modalities(self, values: Tensor, present: Tensor) -> None:
        # PyTorch would broadcast a wrong number of modalities without an error.
        expected = len(self.modality_temperature)
        if values.shape[1:-1] != (expected,) or present.shape[1:] != (expected,):
            raise ValueError(
                f"expected [samples, {expected} modalities, ...] and present [samples, "
                f"{expected} modalities], got {list(values.shape)} and {list(present.shape)}"
            )

    def _checked(self, name: str, values: Sequence[float] | float | Tensor) -> Tensor:
        """Return `values` as a tensor with the shape and type of the buffer `name`."""
        buffer = self.get_buffer(name)
        # Convert before the checks, because a tiny float64 temperature becomes 0 in float32.
        tensor = torch.as_tensor(values, dtype=buffer.dtype, device=buffer.device).detach()
        if tensor.shape != buffer.shape:
            raise ValueError(
                f"{name} must have shape {list(buffer.shape)}, got {list(tensor.shape)}"
            )
        accepted, range_name = tensor.isfinite(), "finite"
        if name != "modality_bias":
            accepted, range_name = accepted & (tensor > 0), "positive and finite"
        if not bool(accepted.all()):
            raise ValueError(f"{name} must be {range_name}, got {tensor.tolist()}")
        return tensor
