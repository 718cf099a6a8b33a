"""Late fusion by certainty: the classifier on every present modality, then a weighted sum.

Source: DI-MML, arXiv 2407.19514, certainty-aware logit weighting. Ours: the fusion answers for any
non-empty subset of modalities, and certainty is calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dimml.nn.heads import PrivateClassifiers
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
    logits: Tensor,
    present: Tensor,
    temperature: float | Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Return each modality's share: w = softmax over the present m of (c_m / T + b_m).

    Every row is weighted on its own, so an answer never depends on the rest of the batch.
    Source: DI-MML, arXiv 2407.19514, certainty-aware logit weighting; the mask and b are ours.

    Args:
        logits: [N samples, M modalities, K classes]; absent slots may hold NaN.
        present: bool [N samples, M modalities].
        temperature: T, positive; a high one makes the shares equal.
        bias: b, [M modalities]; favours a modality over others of equal certainty.

    Returns:
        [N samples, M modalities]; rows sum to 1, absent modalities have exactly 0. A row with
        nothing present has no answer: NaN.
    """
    scores = certainty(blank_absent(logits, present)) / temperature
    if bias is not None:
        scores = scores + bias
    return scores.masked_fill(~present, float("-inf")).softmax(dim=-1)


def subset_index(present: Tensor) -> Tensor:
    """Return the number of each row's subset of modalities: the sum over the present m of 2 ** m.

    Args:
        present: bool [..., M modalities].

    Returns:
        int64 [...], in 0 (nothing) .. 2 ** M - 1 (everything).
    """
    powers = 2 ** torch.arange(present.shape[-1], device=present.device)
    return (present.to(torch.int64) * powers).sum(dim=-1)


class CertaintyFusion(nn.Module):
    """The whole of `classifier.onnx`: classifier, calibration, certainty weighting and mask.

    Temperatures and biases are buffers, not parameters: calibration fits them on the validation
    split after training. Until `set_calibration`, temperatures are 1 and biases 0.

    Attributes:
        classifier: From D dimensions to K classes: a linear layer that all modalities share (g), or
            `PrivateClassifiers`, one for each modality.
        modality_temperature: [M modalities]; divides each modality's logits.
        fusion_temperature: scalar; the T of `certainty_weights`.
        subset_temperature: [2 ** M subsets], numbered by `subset_index`; divides the fused logits.
            That of a one-modality subset is always 1, so that such a subset answers exactly what
            its modality's logits say. That of the empty subset (index 0) is never used.
        modality_bias: [M modalities]; the b of `certainty_weights`.
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
                f"num_modalities must lie in 1 .. {MAX_MODALITIES}, got {num_modalities}: every "
                "subset of modalities has a temperature, so their table doubles with each"
            )
        self.classifier: nn.Linear | PrivateClassifiers = nn.Linear(feature_dim, num_classes)
        self.register_buffer("modality_temperature", torch.ones(num_modalities))
        self.register_buffer("fusion_temperature", torch.tensor(1.0))
        self.register_buffer("subset_temperature", torch.ones(2**num_modalities))
        self.register_buffer("modality_bias", torch.zeros(num_modalities))

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answer from the features of the modalities that are present.

        Args:
            features: [N samples, M modalities, D dimensions]; absent slots may hold anything.
            present: bool [N samples, M modalities], at least one per row.

        Returns:
            probabilities [N samples, K classes], rows summing to 1; weights [N samples,
            M modalities], as `certainty_weights`; modality_logits [N samples, M modalities,
            K classes], calibrated, g(f_m) / modality_temperature[m], 0 where absent.

        Raises:
            ValueError: If the number of modalities is not M.
        """
        self._check_modalities(features, present)
        logits = self.classifier(blank_absent(features, present))
        logits = blank_absent(logits / self.modality_temperature.unsqueeze(-1), present)
        probabilities, weights = self.fuse(logits, present)
        return probabilities, weights, logits

    def fuse(self, modality_logits: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse logits that are calibrated per modality: softmax(sum_m w_m z_m / T_subset).

        Separate from `forward`, so that calibration can run it on precomputed logits.

        Args:
            modality_logits: [N samples, M modalities, K classes]; absent slots may hold anything.
            present: bool [N samples, M modalities], at least one per row.

        Returns:
            probabilities [N samples, K classes] and weights [N samples, M modalities].

        Raises:
            ValueError: If the number of modalities is not M.
        """
        self._check_modalities(modality_logits, present)
        logits = blank_absent(modality_logits, present)
        weights = certainty_weights(logits, present, self.fusion_temperature, self.modality_bias)
        fused = (weights.unsqueeze(-1) * logits).sum(dim=1)
        temperature = self.subset_temperature[subset_index(present)]
        return (fused / temperature.unsqueeze(-1)).softmax(dim=-1), weights

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
            fusion_temperature: scalar.
            subset_temperature: [2 ** M subsets], numbered by `subset_index`; 1 for each subset of
                one modality, whose calibration is that of its modality.
            modality_bias: [M modalities]; 0 for each if None.

        Raises:
            ValueError: If a length is wrong, a temperature is not positive and finite, that of a
                one-modality subset is not 1, or a bias is not finite.
        """
        checked = {
            "modality_temperature": self._as_temperatures(
                "modality_temperature", modality_temperature
            ),
            "fusion_temperature": self._as_temperatures("fusion_temperature", fusion_temperature),
            "subset_temperature": self._as_temperatures("subset_temperature", subset_temperature),
        }
        _check_singletons(checked["subset_temperature"], len(self.modality_temperature))
        bias = torch.zeros_like(self.modality_bias) if modality_bias is None else modality_bias
        checked["modality_bias"] = self._like("modality_bias", bias)
        if not bool(checked["modality_bias"].isfinite().all()):
            raise ValueError(f"modality_bias must be finite, got {bias}")
        for name, values in checked.items():
            self.get_buffer(name).copy_(values)

    def _check_modalities(self, values: Tensor, present: Tensor) -> None:
        # A wrong number of modalities could otherwise be broadcast silently.
        expected = len(self.modality_temperature)
        if values.shape[1:-1] != (expected,) or present.shape[1:] != (expected,):
            raise ValueError(
                f"expected [samples, {expected} modalities, ...] and present [samples, "
                f"{expected} modalities], got {list(values.shape)} and {list(present.shape)}"
            )

    def _as_temperatures(self, name: str, values: Sequence[float] | float | Tensor) -> Tensor:
        """Return `_like` after checking the values in the precision of the buffer."""
        tensor = self._like(name, values)
        if not bool((tensor.isfinite() & (tensor > 0)).all()):
            raise ValueError(f"{name} must be positive and finite, got {tensor.tolist()}")
        return tensor

    def _like(self, name: str, values: Sequence[float] | float | Tensor) -> Tensor:
        """Return `values` as a tensor with the shape and type of the buffer `name`."""
        buffer = self.get_buffer(name)
        tensor = torch.as_tensor(values, dtype=buffer.dtype, device=buffer.device).detach()
        if tensor.shape != buffer.shape:
            raise ValueError(
                f"{name} must have shape {list(buffer.shape)}, got {list(tensor.shape)}"
            )
        return tensor


def _check_singletons(subset_temperature: Tensor, num_modalities: int) -> None:
    singletons = subset_temperature[[2**m for m in range(num_modalities)]]
    if not bool((singletons == 1).all()):
        raise ValueError(
            "subset_temperature of one-modality subsets (indices 1, 2, 4, ...) must be 1, got "
            f"{singletons.tolist()}; put their calibration into modality_temperature"
        )


def blank_absent(values: Tensor, present: Tensor) -> Tensor:
    """Replace absent slots of [N, M, ...] by 0; multiplying by 0 would keep their NaN."""
    return torch.where(present.unsqueeze(-1), values, torch.zeros_like(values))
