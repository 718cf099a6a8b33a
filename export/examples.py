"""The examples of a bundle: rows of the test split, for people who try it on the web page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from dimml.bundle import Example
from dimml.errors import InputError
from dimml.modalities import Kind, Text
from dimml.modalities.text import plain_text
from dimml.samples import is_absent
from dimml.table import Row

MAX_BYTES = 2_000_000
"""Bytes of one value. A row with a larger value is no example, because the page loads them all."""


def choose_examples(
    kinds: Mapping[str, Kind], rows: Sequence[Row], count: int
) -> tuple[list[Example], dict[str, bytes]]:
    """Choose rows as examples: a row per label first, and rows with all modalities first.

    Args:
        kinds: Modality to kind.
        rows: The rows to choose from, in order of preference.
        count: Number of examples; there are fewer if fewer rows can be read.

    Returns:
        The examples, and the content of each file that they name.
    """
    examples: list[Example] = []
    files: dict[str, bytes] = {}
    for row in _by_preference(kinds, rows):
        if len(examples) == count:
            break
        values = _read_values(kinds, row.sample)
        if not values:
            continue
        named: dict[str, str | tuple[str, ...]] = {}
        for name, value in values.items():
            if isinstance(value, str):
                named[name] = value
                continue
            prefix = f"example-{len(examples)}-{name}"
            new = {f"{prefix}-{n}{_suffix(content)}": content for n, content in enumerate(value)}
            named[name] = tuple(new)
            files |= new
        examples.append(Example(label=str(row.label), values=named))
    return examples, files


def _by_preference(kinds: Mapping[str, Kind], rows: Sequence[Row]) -> list[Row]:
    seen: dict[str | None, int] = {}
    ranks = []
    for row in rows:
        absent = sum(is_absent(row.sample[name]) for name in kinds)
        ranks.append((seen.get(row.label, 0), absent))
        # Only a complete row stands for its label.
        seen[row.label] = seen.get(row.label, 0) + (absent == 0)
    return [rows[n] for n in sorted(range(len(rows)), key=ranks.__getitem__)]


def _read_values(kinds: Mapping[str, Kind], sample: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of a row: text, or the bytes of each file; None if one is unsuitable."""
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        value = sample[name]
        if is_absent(value):
            continue
        try:
            kind.decode(value)
            if isinstance(kind, Text):
                values[name] = plain_text(value, kind.config.max_characters)
            else:
                parts = value if isinstance(value, list | tuple) else [value]
                values[name] = [p.read_bytes() if isinstance(p, Path) else p for p in parts]
        except (InputError, OSError):
            return None
        if not _is_suitable(values[name]):
            return None
    return values


def _is_suitable(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_BYTES
    return isinstance(value, list) and all(
        isinstance(part, bytes) and len(part) <= MAX_BYTES for part in value
    )


def _suffix(content: bytes) -> str:
    """Return the suffix of a picture or recording, by which a browser knows how to show it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return f".{(image.format or '').lower()}"
    except (OSError, ValueError, Image.DecompressionBombError):
        pass
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as sound:
            return f".{sound.format.lower()}"
    except soundfile.LibsndfileError:
        return ""
