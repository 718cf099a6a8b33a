"""Samples and predictions: the input and the output of a predictor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Sample: TypeAlias = Mapping[str, Any]
"""Modality name to value. A value is bytes (the content of a file), a path, an open file, an array,
an `AudioArray`, text for a text modality, or a list of these for a modality with several frames. A
modality is absent if its value is None, blank text, NaN or an empty list, or if the sample leaves
it out."""


@dataclass(frozen=True, slots=True)
class AudioArray:
    """A decoded recording that states its own sample rate.

    Attributes:
        samples: float [samples] or [samples, channels].
        rate: Samples per second.
    """

    samples: np.ndarray
    rate: int

    def to_bytes(self) -> bytes:
        """Return bytes that differ between recordings."""
        return repr((self.rate, self.samples.dtype, self.samples.shape)).encode() + (
            self.samples.tobytes()
        )


OnUnreadable: TypeAlias = Literal["error", "absent"]
"""Whether an unreadable value fails the sample or makes its modality count as absent."""

MAX_MODALITIES = 10
"""Modalities of a bundle. Each of their 2 ** M subsets has a temperature of its own."""


@dataclass(frozen=True, slots=True)
class ModalityOutput:
    """The output of one modality.

    Attributes:
        present: Whether the sample has this modality.
        label: Label that this modality alone predicts, None if absent.
        confidence: Calibrated probability of that label, None if absent.
        weight: Share in the fused prediction. The weights of a prediction sum to 1.
        warnings: Notes for the user about this input, such as silence or truncated text.
    """

    present: bool
    label: str | None = None
    confidence: float | None = None
    weight: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one sample.

    Attributes:
        label: The most probable label.
        confidence: Calibrated probability of that label.
        probabilities: Label to probability, in the label order of the bundle. They sum to 1.
        prediction_set: Labels that together contain the true label at the coverage of the bundle
            (split conformal, see `Conformal`), most probable first. Never empty.
        modalities: Modality name to its output, in the order of the bundle.
        interaction: Share of what the modalities tell together, by the interaction head. The
            weights of the modalities include their parts of it.
        bundle: "<name>@<first 12 hexadecimal digits of the manifest's sha256>".
    """

    label: str
    confidence: float
    probabilities: Mapping[str, float]
    prediction_set: tuple[str, ...]
    modalities: Mapping[str, ModalityOutput]
    interaction: float
    bundle: str

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain JSON types, which is the body of the HTTP response."""
        return asdict(self)


def is_absent(value: object) -> bool:
    """Return whether a value means that its modality is absent rather than unreadable."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple):
        return all(is_absent(item) for item in value)
    return value is None or (isinstance(value, float) and value != value)  # NaN


def subsets(modalities: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield every non-empty subset of `modalities`, smallest first, each in the input order."""
    for size in range(1, len(modalities) + 1):
        yield from combinations(modalities, size)


def subset_name(modalities: Sequence[str]) -> str:
    """Return the name of a subset in reports and manifests: its modalities joined by "+"."""
    return "+".join(modalities)
