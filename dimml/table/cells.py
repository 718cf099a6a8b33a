"""Convert the cells of a table to ids, labels, split names and the values of modalities."""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dimml.errors import InputError, shorten
from dimml.samples import AudioArray, is_absent

SPLITS = ("train", "validation", "test")
_SPLIT_SYNONYMS = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "development": "validation",
    "testing": "test",
}
_STRUCT_KEYS = frozenset(("bytes", "path", "array", "sampling_rate"))
"""The keys of a file, or a decoded recording, in data sets of Hugging Face."""

_MAX_PATH_BYTES = 4096


def cell_text(value: Any, column: str) -> str | None:
    """Return the text of an id, a label or a split, None if the cell is empty.

    A whole number in a column of floats is written as an integer.

    Raises:
        InputError: If the cell holds a list, an object or bytes that are not UTF-8.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _error(column, "the bytes are not UTF-8 text") from error
    if isinstance(value, list | tuple | Mapping):
        raise _error(column, f"expected text or a number, got {_type_name(value)}")
    if is_absent(value):
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def label_text(value: Any, column: str) -> str | None:
    """Return a label in Unicode's composed form (NFC) without the blanks around it.

    Labels that look alike are one class.

    Raises:
        InputError: See `cell_text`.
    """
    text = cell_text(value, column)
    return None if text is None else unicodedata.normalize("NFC", text.strip())


def split_name(text: str) -> str:
    """Return the name of a split: one of `SPLITS` where a usual synonym is given, else `text`."""
    name = text.strip().lower()
    name = _SPLIT_SYNONYMS.get(name, name)
    return name if name in SPLITS else text


def modality_value(name: str, value: Any, kind: str, locate: Callable[[str], Any]) -> Any:
    """Return the cell of a modality as `Sample` takes it; None if the cell is empty.

    Args:
        name: Name of the modality.
        value: The cell. A struct of `bytes` and `path`, or of `array` and `sampling_rate`, counts
            as the file or the recording that it describes.
        kind: Kind of the modality.
        locate: Turns the path in a cell into the file that the sample holds.

    Raises:
        InputError: If the cell holds a list or an object that the kind cannot read.
    """
    if isinstance(value, Mapping):
        return _struct_value(name, value, kind, locate)
    if is_absent(value) or value == b"":
        return None
    if kind == "text":
        if isinstance(value, list | tuple):
            raise _error(name, f"expected text, got {_type_name(value)}")
        return value if isinstance(value, bytes) else cell_text(value, name)
    if isinstance(value, bytes) and (path := _path_in_bytes(value)):
        value = path
    if isinstance(value, str):
        return locate(value.strip())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [modality_value(name, item, kind, locate) for item in value]
    return value


def _struct_value(
    name: str, struct: Mapping[str, Any], kind: str, locate: Callable[[str], Any]
) -> Any:
    values = {key: value for key, value in struct.items() if not is_absent(value) and value != b""}
    if unknown := sorted(values.keys() - _STRUCT_KEYS):
        raise _error(
            name,
            f"expected a path, bytes or an object of bytes and path, got {_type_name(struct)} with "
            f"{shorten(', '.join(map(str, unknown)))}",
        )
    if "bytes" in values:
        content = values["bytes"]
        return _decode_base64(name, content) if isinstance(content, str) else content
    if "array" in values:
        return _audio_array(name, values, kind)
    return locate(str(values["path"])) if "path" in values else None


def _audio_array(name: str, values: Mapping[str, Any], kind: str) -> AudioArray:
    if kind != "audio" or "sampling_rate" not in values:
        raise _error(
            name, "an `array` is only read for audio, in an object that also has `sampling_rate`"
        )
    try:
        samples = np.asarray(values["array"])
        if samples.dtype.kind not in "fi":
            raise ValueError(f"its elements are {samples.dtype}")
        # Hugging Face stores several channels as [channels, samples].
        return AudioArray(samples.T if samples.ndim == 2 else samples, int(values["sampling_rate"]))
    except (TypeError, ValueError) as error:
        raise _error(name, f"the `array` or its `sampling_rate` is not numeric: {error}") from error


def _decode_base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _error(name, f"the text in `bytes` is not base64: {error}") from error


def _path_in_bytes(value: bytes) -> str | None:
    """Return the path in a cell of a binary column, or None if the cell holds a file's content."""
    if len(value) > _MAX_PATH_BYTES:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    # Every format of audio and images has control characters, or line breaks, in its header.
    return text if text.isprintable() and re.search(r"[./\\]", text) else None


def _type_name(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else "a list"


def _error(field: str, message: str) -> InputError:
    return InputError("invalid_request", message, field)
