"""Conversion of the outputs of the graphs to predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from dimml.bundle import Bundle
from dimml.modalities import Arrays
from dimml.samples import ModalityOutput, Prediction, subset_name


@dataclass(frozen=True)
class PreparedSample:
    """One sample after preprocessing.

    Attributes:
        arrays: Arrays of the present modalities.
        warnings: Warnings about each value.
        unreadable: Modalities whose value cannot be read, and which count as absent.
    """

    arrays: Mapping[str, Arrays]
    warnings: Mapping[str, tuple[str, ...]]
    unreadable: Collection[str] = ()


@dataclass(frozen=True)
class EncodedBatch:
    """A batch after the encoders.

    Attributes:
        features: float32 [N, modalities, D], 0 where a modality is absent.
        present: bool [N, modalities].
    """

    features: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class FusedBatch:
    """The predictions for a batch as arrays, with labels as indices.

    Attributes:
        present: bool [N, modalities].
        probabilities: float32 [N, labels].
        weights: float32 [N, modalities], 0 for absent modalities.
        ranked: integer [N, labels]. Labels, most probable first.
        set_sizes: integer [N]. Number of leading labels that form the prediction set, at least 1.
        modality_labels: integer [N, modalities]. Label that each modality alone predicts, undefined
            for absent modalities.
        modality_confidences: float32 [N, modalities]. Probability of that label, undefined for
            absent modalities.
        interaction: float64 [N]. Share of the interaction head.
    """

    present: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray
    ranked: np.ndarray
    set_sizes: np.ndarray
    modality_labels: np.ndarray
    modality_confidences: np.ndarray
    interaction: np.ndarray

    @classmethod
    def of(cls, bundle: Bundle, present: np.ndarray, outputs: Sequence[np.ndarray]) -> FusedBatch:
        """Rank the outputs of the classifier graph and form the prediction sets.

        Args:
            bundle: Bundle of the graph.
            present: bool [N, modalities].
            outputs: Probabilities [N, labels], weights [N, modalities] and calibrated logits
                [N, modalities, labels], float32.
        """
        probabilities, weights, modality_logits = outputs
        # A stable sort keeps labels of equal probability in the order of the bundle.
        ranked = np.argsort(-probabilities, axis=1, kind="stable")
        min_probability = _min_probabilities(bundle, present)[:, None]
        in_set = np.take_along_axis(probabilities, ranked, axis=1) >= min_probability
        modality_probabilities = _softmax(modality_logits)
        shares = bundle.manifest.interaction
        return cls(
            present=present,
            probabilities=probabilities,
            weights=np.where(present, weights, np.float32(0)),
            ranked=ranked,
            set_sizes=np.maximum(1, in_set.sum(axis=1)),
            modality_labels=modality_probabilities.argmax(axis=-1),
            modality_confidences=modality_probabilities.max(axis=-1),
            interaction=_by_subset(bundle, present, lambda s: shares.get(s, 0.0)),
        )


def build_predictions(
    bundle: Bundle, batch: Sequence[PreparedSample], fused: FusedBatch
) -> list[Prediction]:
    """Return the prediction for each sample of a batch."""
    labels, names = bundle.manifest.labels, tuple(bundle.manifest.modalities)
    # Python lists are several times faster to read element by element than arrays.
    rows = zip(
        batch,
        fused.probabilities.tolist(),
        fused.ranked.tolist(),
        fused.set_sizes.tolist(),
        fused.interaction.tolist(),
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
                for name, present, best, confidence, weight in zip(names, *columns, strict=True)
                for warnings in (sample.warnings.get(name, ()),)
            },
            interaction=interaction,
            bundle=bundle.id,
        )
        for sample, probabilities, ranked, size, interaction, columns in rows
    ]


def _by_subset(bundle: Bundle, present: np.ndarray, value: Callable[[str], float]) -> np.ndarray:
    """Return the value of each row's subset, by its name, float64 [N]."""
    names = tuple(bundle.manifest.modalities)
    patterns, pattern_of_row = np.unique(present, axis=0, return_inverse=True)
    subsets = [subset_name(list(compress(names, pattern))) for pattern in patterns]
    by_pattern = np.asarray([value(subset) for subset in subsets], np.float64)
    return by_pattern[pattern_of_row.ravel()]


def _min_probabilities(bundle: Bundle, present: np.ndarray) -> np.ndarray:
    """Return the smallest probability in a set of each row's subset, float32 [N], 0 by default."""
    conformal = bundle.manifest.conformal

    def limit(subset: str) -> float:
        return (conformal.min_probability(subset) or 0.0) if conformal else 0.0

    return _by_subset(bundle, present, limit).astype(np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
