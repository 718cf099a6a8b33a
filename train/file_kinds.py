"""Tell images and recordings apart, by the suffix of a path or by the content of a file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image
import soundfile

from dimml.modalities import formats
from dimml.modalities.formats import PICTURE_FORMATS
from dimml.samples import AudioArray

_RECORDING_SUFFIXES = frozenset(
    (
        *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"),
        # The sound of these needs the extra `media`, see `formats.MEDIA_RECORDINGS`.
        *(".m4a", ".wma", ".amr", ".aac", ".ac3"),
    )
)
_VIDEO_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".avi", ".flv", ".wmv"),
        *(".mpg", ".mpeg", ".mts", ".m2ts"),
    )
)
_SOUND_BRANDS = (b"M4A ", b"M4B ")
_HEIC_SUFFIXES = (".heic", ".heif")
_KINDS = {"picture": "image", "recording": "audio", "document": None}


def is_video(value: Any) -> bool:
    """Return whether a value of a modality is probably a video, which may have sound."""
    if isinstance(value, bytes):
        found = formats.recognise(value)
        return found is not None and found.may_be_video and value[8:12] not in _SOUND_BRANDS
    return isinstance(value, Path) and _suffix(value) in _VIDEO_SUFFIXES


def file_kind(value: Any) -> str | None:
    """Return whether a value of a modality is an image or a recording, None if neither.

    A video counts as a recording, see `is_video`.
    """
    if isinstance(value, AudioArray):
        return "audio"
    if isinstance(value, bytes):
        return _kind_of_bytes(value)
    if not isinstance(value, Path):
        return None
    suffix = _suffix(value)
    if suffix in _RECORDING_SUFFIXES | _VIDEO_SUFFIXES:
        return "audio"
    picture = PIL.Image.registered_extensions().get(suffix)
    return "image" if picture in PICTURE_FORMATS or suffix in _HEIC_SUFFIXES else None


def _suffix(path: Path) -> str:
    # The query of a URL follows its suffix.
    return Path(path.name.partition("?")[0]).suffix.lower()


def _kind_of_bytes(content: bytes) -> str | None:
    """Return the kind of a file's content, also of a damaged file that begins as one."""
    if found := formats.recognise(content):
        return _KINDS[found.content]
    try:
        PIL.Image.open(io.BytesIO(content), formats=PICTURE_FORMATS)
        return "image"
    except (OSError, SyntaxError, ValueError):
        pass
    try:
        soundfile.info(io.BytesIO(content))
        return "audio"
    except (soundfile.SoundFileError, TypeError, ValueError):
        return None
