"""What a prediction adds on request: the features, and the answer without each modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from dimml.bundle import Bundle
from dimml.errors import UsageError
from dimml.outputs import EncodedBatch, FusedBatch
from dimml.samples import Prediction

FEATURES_VERSION = 1
"""Changes if the same encoder would return other numbers as its features."""


@dataclass(frozen=True, slots=True)
class Details:
    """What the caller wants of a prediction beside the prediction itself.

    Attributes:
        features: Whether it has the features of the modalities.
        explain: Whether it has the answer without each modality.
    """

    features: bool = False
    explain: bool = False


NO_DETAILS = Details()


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a sample: what the shared classifier reads.

    Attributes:
        version: `FEATURES_VERSION`.
        values: Modality name to the D numbers of its encoder, None if absent. They are comparable
            between modalities of one bundle, not between bundles.
    """

    version: int
    values: Mapping[str, tuple[float, ...] | None]


@dataclass(frozen=True, slots=True)
class ReducedAnswer:
    """The answer to a sample of which one modality is left out.

    Attributes:
        label: The most probable label.
        confidence: Calibrated probability of that label.
        prediction_set: See `Prediction`.
    """

    label: str
    confidence: float
    prediction_set: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DetailedPrediction(Prediction):
    """A prediction together with the details that were asked for; the others are None.

    Attributes:
        features: The features that the prediction was made of.
        without: Present modality to the answer of all other present modalities. It is empty if only
            one modality is present.
    """

    features: Features | None
    without: Mapping[str, ReducedAnswer] | None


def late_dim(bundle: Bundle) -> int:
    """Return the number of features of a modality that the shared classifier reads.

    Raises:
        UsageError: If the bundle does not state it.
    """
    if bundle.manifest.late_dim is None:
        raise UsageError(
            f"{bundle.id} was exported by a version of dimml that did not note which numbers are "
            "features; export the run again with `dimml export`"
        )
    return bundle.manifest.late_dim


def add_details(
    bundle: Bundle,
    predictions: Sequence[Prediction],
    encoded: EncodedBatch,
    details: Sequence[Details],
    fuse: Callable[[EncodedBatch], FusedBatch],
) -> list[Prediction]:
    """Add to each prediction the details that its caller wants.

    Args:
        bundle: Bundle of the predictions.
        predictions: The predictions of a batch.
        encoded: The batch after the encoders, which do not run again.
        details: What is wanted of each prediction.
        fuse: Computes the fused predictions of an encoded batch.
    """
    features = [
        _features(bundle, prediction, rows) if wanted.features else None
        for prediction, rows, wanted in zip(predictions, encoded.features, details, strict=True)
    ]
    explained = [row for row, wanted in enumerate(details) if wanted.explain]
    without = _answers_without_each(bundle, encoded, explained, fuse)
    return [
        DetailedPrediction(
            **{field.name: getattr(prediction, field.name) for field in fields(Prediction)},
            features=features[row],
            without=without[row] if wanted.explain else None,
        )
        if wanted != NO_DETAILS
        else prediction
        for row, (prediction, wanted) in enumerate(zip(predictions, details, strict=True))
    ]


def _features(bundle: Bundle, prediction: Prediction, rows: np.ndarray) -> Features:
    """Return the features of a sample, from those of all heads, float32 [modalities, D]."""
    values = {
        name: tuple(row[: late_dim(bundle)].tolist()) if output.present else None
        for (name, output), row in zip(prediction.modalities.items(), rows, strict=True)
    }
    return Features(FEATURES_VERSION, values)


def _answers_without_each(
    bundle: Bundle,
    encoded: EncodedBatch,
    rows: Sequence[int],
    fuse: Callable[[EncodedBatch], FusedBatch],
) -> dict[int, dict[str, ReducedAnswer]]:
    """Return, for each of the rows, the answer without each of its modalities."""
    labels, names = bundle.manifest.labels, tuple(bundle.manifest.modalities)
    answers: dict[int, dict[str, ReducedAnswer]] = {row: {} for row in rows}
    # Nothing would remain of a row with a single modality.
    left_out = [
        (row, int(slot))
        for row in rows
        if encoded.present[row].sum() > 1
        for slot in np.flatnonzero(encoded.present[row])
    ]
    if not left_out:
        return answers
    origins = [row for row, _ in left_out]
    present = encoded.present[origins]
    present[np.arange(len(left_out)), [slot for _, slot in left_out]] = False
    fused = fuse(EncodedBatch(encoded.features[origins], present))
    for number, (row, slot) in enumerate(left_out):
        ranked = fused.ranked[number]
        answers[row][names[slot]] = ReducedAnswer(
            labels[ranked[0]],
            float(fused.probabilities[number, ranked[0]]),
            tuple(labels[index] for index in ranked[: fused.set_sizes[number]]),
        )
    return answers
