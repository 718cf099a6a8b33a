"""Decoders of recordings: libsndfile, and PyAV for the sound of containers.

A decoder yields blocks of samples with their rate. Its first block is empty, so that the caller can
check the rate and the channels before samples are decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import soundfile

BLOCK_FRAMES = 65_536

_UNRECOGNISED_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile
_DECLARE_LENGTH = frozenset({"WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64"})
_LOSSY = frozenset({"MP3", "OGG"})
_END_OF_STREAM = 4
"""The flag of the last page of an OGG."""

Block = tuple[int, np.ndarray]
"""A sample rate in Hz, and samples, float32 [samples, channels]."""


class DecodeError(Exception):
    """A recording, or the rest of it, cannot be decoded.

    Attributes:
        reason: Why, as a part of a sentence.
        is_unknown: Whether the format is not one of the decoder's.
        is_fatal: Whether the samples before the error must not be used either.
    """

    def __init__(self, reason: str, *, is_unknown: bool = False, is_fatal: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_unknown = is_unknown
        self.is_fatal = is_fatal


class NoTrackError(DecodeError):
    """A container has no track of the kind that is decoded."""


class OverLimitError(DecodeError):
    """A file exceeds a limit."""


class MemoryFile(io.BytesIO):
    """A file in memory that ignores a seek to before its start, which a damaged header can cause.

    The libraries seek in a callback, where an exception is printed instead of raised.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def end_of_tags(data: bytes) -> int:
    """Return the position behind the ID3 tags at the start of a file."""
    start = 0
    while data[start : start + 3] == b"ID3" and start + 10 <= len(data):
        # The size has 7 bits in each byte.
        high, upper, lower, low = data[start + 6 : start + 10]
        footer = 10 if data[start + 5] & 0x10 else 0
        start += 10 + (high << 21 | upper << 14 | lower << 7 | low) + footer
    return start


def skip_padding(data: bytes) -> bytes:
    """Drop zeros before the first frame of an MP3, and the tags before them.

    Some programs reserve space for tags and fill it with zeros, which libsndfile does not skip.
    """
    start = end_of_tags(data)
    if data[start : start + 1] != b"\0":
        return data
    frames = data[start:].lstrip(b"\0")
    # A frame starts with 11 set bits. Its layer is not 0, unlike that of AAC.
    is_mpeg = len(frames) > 1 and frames[0] == 0xFF and frames[1] >= 0xE0 and frames[1] & 0x06
    return frames if is_mpeg else data


def read_libsndfile(data: bytes) -> Iterator[Block]:
    """Decode a file of libsndfile.

    Raises:
        DecodeError: If the file is damaged or of no known format. What precedes the damage of an
            MP3 or OGG can be used; other formats declare their length and must be complete.
    """
    try:
        with soundfile.SoundFile(MemoryFile(data)) as file:
            yield file.samplerate, np.empty((0, file.channels), np.float32)
            total, damage = 0, ""
            while not damage:
                block, damage = _read_block(file)
                total += len(block)
                if len(block):
                    yield file.samplerate, block
                if len(block) < BLOCK_FRAMES:
                    break
            if damage := damage or _missing_end(file, total, data):
                raise DecodeError(damage, is_fatal=file.format not in _LOSSY)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        is_unknown = getattr(error, "code", None) == _UNRECOGNISED_FORMAT
        raise DecodeError(_reason(error), is_unknown=is_unknown) from error


def _read_block(file: soundfile.SoundFile) -> tuple[np.ndarray, str]:
    """Return the next samples, and what is wrong with the file behind them."""
    if file.format not in _LOSSY:
        return file.read(BLOCK_FRAMES, dtype="float32", always_2d=True), ""
    # libsndfile does not tell how many samples of a block it decoded before an error.
    block = np.full((BLOCK_FRAMES, file.channels), np.nan, np.float32)
    try:
        return file.read(BLOCK_FRAMES, out=block), ""
    except soundfile.SoundFileError as error:
        return block[np.isfinite(block).all(axis=1)], _reason(error)


def _reason(error: Exception) -> str:
    # The text of a libsndfile error begins with the memory address of the file object.
    return str(getattr(error, "error_string", error)).strip(" .") or "unknown error"


def _missing_end(file: soundfile.SoundFile, total: int, data: bytes) -> str:
    """Return what is missing at the end of a file, "" if nothing is."""
    if file.format in (*_DECLARE_LENGTH, *_LOSSY) and total < file.frames:
        return f"its header declares {file.frames:,} samples, but it has only {total:,}"
    if file.format == "OGG":
        last_page = data.rfind(b"OggS")
        if not data[last_page + 5] & _END_OF_STREAM:
            return "its end is missing"
    return ""
