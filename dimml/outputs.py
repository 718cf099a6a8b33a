"""From what the graphs put out to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from dimml.bundle import Bundle
from dimml.modalities import Arrays
from dimml.samples import ModalityOutput, Prediction, subset_name


@dataclass(frozen=True)
class PreparedSample:
    """One sample after preprocessing: arrays of what is present, warnings of what was given."""

    arrays: Mapping[str, Arrays]
    warnings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class FusedBatch:
    """The answers for a batch, as arrays of the positions of labels.

    Attributes:
        present: bool [N, modalities].
        probabilities: float32 [N, labels].
        weights: float32 [N, modalities]; zeros where a modality is absent.
        ranked: integer [N, labels]: labels, the most probable first.
        set_sizes: integer [N]: how many of them make the prediction set, at least one.
        modality_labels: integer [N, modalities]: what each alone would say; not to be read where
            it is absent.
        modality_confidences: float32 [N, modalities]: the probability of that, likewise.
    """

    present: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray
    ranked: np.ndarray
    set_sizes: np.ndarray
    modality_labels: np.ndarray
    modality_confidences: np.ndarray

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        present: np.ndarray,
        probabilities: np.ndarray,
        weights: np.ndarray,
        modality_logits: np.ndarray,
    ) -> FusedBatch:
        """Ranks the outputs of the classifier graph, and cuts the prediction sets."""
        ranked = np.argsort(-probabilities, axis=1, kind="stable")
        least = (1.0 - _thresholds(bundle, present)).astype(np.float32)
        kept = np.take_along_axis(probabilities, ranked, axis=1) >= least[:, None]
        alone = _softmax(modality_logits)
        return cls(
            present=present,
            probabilities=probabilities,
            weights=np.where(present, weights, np.float32(0)),
            ranked=ranked,
            set_sizes=np.maximum(1, kept.sum(axis=1)),
            modality_labels=alone.argmax(axis=-1),
            modality_confidences=alone.max(axis=-1),
        )


def build_predictions(
    bundle: Bundle, batch: Sequence[PreparedSample], fused: FusedBatch
) -> list[Prediction]:
    """The prediction of each sample of a batch."""
    manifest = bundle.manifest
    labels, names = manifest.labels, tuple(manifest.modalities)
    rows = zip(
        batch,
        fused.probabilities.tolist(),
        fused.ranked.tolist(),
        fused.set_sizes.tolist(),
        zip(
            fused.present.tolist(),
            fused.modality_labels.tolist(),
            fused.modality_confidences.tolist(),
            fused.weights.tolist(),
            strict=True,
        ),
        strict=True,
    )
    return [
        Prediction(
            label=labels[ranked[0]],
            confidence=probabilities[ranked[0]],
            probabilities=dict(zip(labels, probabilities, strict=True)),
            prediction_set=tuple(labels[index] for index in ranked[:size]),
            modalities={
                name: ModalityOutput(True, labels[best], confidence, weight, warnings)
                if present
                else ModalityOutput(present=False, warnings=warnings)
                for name, present, best, confidence, weight in zip(names, *said, strict=True)
                for warnings in (item.warnings.get(name, ()),)
            },
            bundle=bundle.id,
        )
        for item, probabilities, ranked, size, said in rows
    ]


def _thresholds(bundle: Bundle, present: np.ndarray) -> np.ndarray:
    """The conformal threshold of each row's subset: float64 [N]; 1 where there is none."""
    conformal = bundle.manifest.conformal
    names = tuple(bundle.manifest.modalities)
    found, rows = np.unique(present, axis=0, return_inverse=True)
    subsets = [subset_name(list(compress(names, row))) for row in found]
    of_subset = [conformal.thresholds.get(s, 1.0) if conformal else 1.0 for s in subsets]
    return np.asarray(of_subset)[rows.ravel()]


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
