"""What goes in and what comes out: samples and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, TypeAlias

Sample: TypeAlias = Mapping[str, Any]
"""Modality name to value. A value is bytes (a file's content), a path, an open file, an array,
text for a text modality, or a list of these for a modality of several frames. None, blank text,
NaN and an empty list mean that the modality is absent, as does leaving it out."""

OnUnreadable: TypeAlias = Literal["error", "absent"]
"""What an unreadable value does: it fails the sample, or its modality counts as absent."""

MAX_MODALITIES = 10
"""Modalities of a bundle. Each of their 2 ** M subsets has a temperature of its own."""


@dataclass(frozen=True, slots=True)
class ModalityOutput:
    """What one modality said.

    Attributes:
        present: whether it took part.
        label: the label this modality alone would give, None when absent.
        confidence: the calibrated probability of that label, None when absent.
        weight: its share in the fused answer; the weights of a prediction sum to 1.
        warnings: what a person should know about this input (silence, truncated text, ...).
    """

    present: bool
    label: str | None = None
    confidence: float | None = None
    weight: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one sample.

    Attributes:
        label: the most probable label.
        confidence: its calibrated probability.
        probabilities: label to probability, in the bundle's label order; they sum to 1.
        prediction_set: the labels that together hold the truth at the bundle's coverage
            (split conformal, see `Conformal`), most probable first; never empty.
        modalities: modality name to what it said, in the bundle's order.
        bundle: "<name>@<first 12 hexadecimal digits of the manifest's sha256>".
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    prediction_set: tuple[str, ...]
    modalities: Mapping[str, ModalityOutput]
    bundle: str

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON types: the body of the HTTP answer."""
        return asdict(self)


def is_absent(value: object) -> bool:
    """Whether a cell means "this modality is not there" rather than "it is broken"."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return value != value
    if isinstance(value, list | tuple):
        return all(is_absent(item) for item in value)
    return False


def subsets(modalities: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every non-empty subset of `modalities`, each in the given order, the smallest first."""
    for size in range(1, len(modalities) + 1):
        yield from combinations(modalities, size)


def subset_name(modalities: Sequence[str]) -> str:
    """How a subset is written in reports and manifests: its names joined by "+"."""
    return "+".join(modalities)
