"""WAV files: where the samples are, and how many, even if the header does not say so."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

UNKNOWN_SIZE = 0x7FFF_F000
"""A recorder that streams a WAV does not know its size, and declares 0 or at least this many bytes
of samples. No file of this size is within the limit of bytes."""

_PCM = 1  # WAVE_FORMAT_PCM


@dataclass(frozen=True)
class Wav:
    """The header of a WAV.

    Attributes:
        start: Position of the first sample.
        size: Bytes of samples: the declared size, or all bytes up to the end of the file if the
            recorder did not know the size.
        is_streamed: Whether the recorder did not know the size.
        layout: The encoding, channels, rate, bytes per second, bytes of a frame and bits of a
            sample; empty if the file does not say.
    """

    start: int
    size: int
    is_streamed: bool
    layout: tuple[int, ...]

    @property
    def is_pcm16(self) -> bool:
        """Whether the samples are 16-bit PCM without extensions."""
        if not self.layout:
            return False
        encoding, channels, _, _, frame_bytes, bits = self.layout
        return channels > 0 and (encoding, bits, frame_bytes) == (_PCM, 16, 2 * channels)


def read_header(data: bytes) -> Wav | None:
    """Find the samples of a WAV; None for other files, and for a WAV without samples."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    layout: tuple[int, ...] = ()
    position = 12
    while position + 8 <= len(data):
        chunk, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if chunk == b"fmt " and size >= 16 and position + 16 <= len(data):
            layout = struct.unpack_from("<HHIIHH", data, position)
        if chunk == b"data":
            available = len(data) - position
            is_streamed = size >= UNKNOWN_SIZE or (size == 0 and _has_samples(data, position))
            return Wav(position, available if is_streamed else size, is_streamed, layout)
        position += size + size % 2  # Chunks start at even positions.
    return None


def _has_samples(data: bytes, start: int) -> bool:
    """Return whether the bytes after an empty `data` chunk are samples rather than a chunk."""
    if start + 8 > len(data):
        return start < len(data)
    name, size = struct.unpack_from("<4sI", data, start)
    is_chunk = name.isascii() and name.decode("ascii").isprintable()
    return not (is_chunk and start + 8 + size <= len(data))


def with_known_size(data: bytes, wav: Wav) -> bytes:
    """Return a streamed WAV with the size of its samples in its header, which libsndfile needs."""
    size = struct.pack("<I", wav.size)
    riff = struct.pack("<I", len(data) - 8)
    return b"".join((data[:4], riff, data[8 : wav.start - 4], size, data[wav.start :]))


def pcm16(data: bytes, wav: Wav) -> np.ndarray:
    """Return the samples of a 16-bit PCM WAV, float32 [samples, channels].

    This takes a tenth of the time of libsndfile.
    """
    channels = wav.layout[1]
    count = wav.size // (2 * channels) * channels
    values = np.frombuffer(data, "<i2", count, wav.start).astype(np.float32)
    values /= np.float32(32_768)
    return values.reshape(-1, channels)
