"""Tell images and recordings apart, by the suffix of a path or by the content of a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image
import soundfile

from dimml.modalities import formats
from dimml.modalities.image import FORMATS
from dimml.samples import AudioArray

_RECORDING_SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"),
        # The sound of these needs the extra `media`, see `formats.MEDIA_RECORDINGS`.
        *(".m4a", ".mp4", ".mov", ".3gp", ".webm", ".mkv", ".wma", ".amr", ".aac", ".ac3", ".avi"),
    )
)
_HEIC_SUFFIXES = (".heic", ".heif")
_KINDS = {"picture": "image", "recording": "audio", "document": None}


def file_kind(value: Any) -> str | None:
    """Return whether a value of a modality is an image or a recording, None if neither."""
    if isinstance(value, AudioArray):
        return "audio"
    if isinstance(value, bytes):
        return _kind_of_bytes(value)
    if not isinstance(value, Path):
        return None
    # The query of a URL follows its suffix.
    suffix = Path(value.name.partition("?")[0]).suffix.lower()
    if suffix in _RECORDING_SUFFIXES:
        return "audio"
    picture = PIL.Image.registered_extensions().get(suffix)
    return "image" if picture in FORMATS or suffix in _HEIC_SUFFIXES else None


def _kind_of_bytes(content: bytes) -> str | None:
    """Return the kind of a file's content, also of a damaged file that begins as one."""
    if found := formats.recognise(content):
        return _KINDS[found.content]
    try:
        PIL.Image.open(io.BytesIO(content), formats=FORMATS)
        return "image"
    except (OSError, SyntaxError, ValueError):
        pass
    try:
        soundfile.info(io.BytesIO(content))
        return "audio"
    except (soundfile.SoundFileError, TypeError, ValueError):
        return None
