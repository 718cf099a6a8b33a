"""From what the graphs put out to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dimml.bundle import Bundle
from dimml.modalities import Arrays
from dimml.samples import ModalityOutput, Prediction, subset_name


@dataclass(frozen=True)
class Prepared:
    """One sample after preprocessing: arrays of what is present, warnings of what was given."""

    arrays: Mapping[str, Arrays]
    warnings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Outputs:
    """What the classifier graph answers, see design of `classifier.onnx`.

    Attributes:
        probabilities: float32 [N, labels].
        weights: float32 [N, modalities].
        modality_logits: float32 [N, modalities, labels], calibrated.
    """

    probabilities: np.ndarray
    weights: np.ndarray
    modality_logits: np.ndarray


def build_predictions(
    bundle: Bundle, batch: Sequence[Prepared], outputs: Outputs
) -> list[Prediction]:
    """The prediction of each sample of a batch."""
    modality_probabilities = _softmax(outputs.modality_logits)
    rows = zip(batch, outputs.probabilities, outputs.weights, modality_probabilities, strict=True)
    return [_prediction(bundle, *row) for row in rows]


def _prediction(
    bundle: Bundle,
    item: Prepared,
    probabilities: np.ndarray,
    weights: np.ndarray,
    modality_probabilities: np.ndarray,
) -> Prediction:
    labels = bundle.manifest.labels
    modalities = {}
    for slot, name in enumerate(bundle.manifest.modalities):
        warnings = item.warnings.get(name, ())
        if name not in item.arrays:
            modalities[name] = ModalityOutput(present=False, warnings=warnings)
            continue
        best = int(modality_probabilities[slot].argmax())
        modalities[name] = ModalityOutput(
            present=True,
            label=labels[best],
            confidence=float(modality_probabilities[slot, best]),
            weight=float(weights[slot]),
            warnings=warnings,
        )
    best = int(probabilities.argmax())
    return Prediction(
        label=labels[best],
        confidence=float(probabilities[best]),
        probabilities=dict(zip(labels, probabilities.tolist(), strict=True)),
        prediction_set=_prediction_set(bundle, item, probabilities),
        modalities=modalities,
        bundle=bundle.id,
    )


def _prediction_set(bundle: Bundle, item: Prepared, probabilities: np.ndarray) -> tuple[str, ...]:
    conformal = bundle.manifest.conformal
    subset = subset_name([name for name in bundle.manifest.modalities if name in item.arrays])
    threshold = conformal.thresholds.get(subset, 1.0) if conformal else 1.0
    ranked = np.argsort(-probabilities, kind="stable")
    kept = ranked[probabilities[ranked] >= 1.0 - threshold]
    return tuple(bundle.manifest.labels[index] for index in (kept if len(kept) else ranked[:1]))


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
