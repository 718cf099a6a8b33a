"""Decoding of one sample, one modality after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dimml.errors import AbsentError, InputError
from dimml.modalities import Arrays, Kind
from dimml.samples import OnUnreadable, Sample, is_absent

EAGER_PREPROCESS_BYTES = 4_000_000
"""A larger decoded value is preprocessed at once instead of with its batch."""


@dataclass(slots=True)
class DecodedSample:
    """One sample between decoding and preprocessing.

    Attributes:
        sample, on_unreadable: The request.
        raw: Decoded values of the present modalities.
        arrays: Arrays of the modalities that are already preprocessed.
        warnings: Warnings about each value.
        unreadable: Modalities whose value cannot be read, and which count as absent.
        error: Why there is no prediction.
    """

    sample: Sample
    on_unreadable: OnUnreadable
    raw: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Arrays] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    error: InputError | None = None


def decode_modality(item: DecodedSample, name: str, kind: Kind) -> None:
    """Decode one modality of a sample, and preprocess a large value at once."""
    if is_absent(value := item.sample.get(name)):
        return
    try:
        raw = kind.decode(value)
        item.warnings[name] = kind.warnings(raw)
    except AbsentError as error:
        item.warnings[name] = (error.message,)
        return
    except InputError as error:
        if item.on_unreadable == "error":
            item.error = error
        item.unreadable.add(name)
        item.warnings[name] = (f"{error.code}: {error.message}",)
        return
    # A batch of large decoded images would take gigabytes.
    if kind.memory(raw) > EAGER_PREPROCESS_BYTES:
        item.arrays[name] = kind.preprocess(raw)
    else:
        item.raw[name] = raw
