"""The sound of containers such as MP4 and WebM, decoded by PyAV from memory.

PyAV is FFmpeg, which reads whatever a file refers to and trusts what it declares. This module opens
one container by its name, with the decoders of sound alone, no other file, no network, and limits
on streams, on the samples of a frame and on each allocation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from dimml.modalities.decoders import Block, DecodeError, MemoryFile

MAX_ALLOCATION_BYTES = 64 * 2**20
"""FFmpeg's limit on one allocation. An index takes 24 bytes per packet, and a container of 13 KB
that declares 80 million packets would take 3 GB."""

MAX_STREAMS = 16
MAX_FRAME_SAMPLES = 1_000_000
MISSING_SHARE, MISSING_SECONDS = 0.02, 0.2
"""A container may lack this share of its declared length, and these seconds, and be complete."""

_DECLARE_LENGTH = frozenset({"mov", "matroska", "asf"})
"""The containers whose header has the length. That of others is an estimate."""

_CODECS = (
    *("aac", "aac_latm", "ac3", "eac3", "alac", "ape", "cook", "flac", "mp3", "mp3float"),
    *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "opus", "libopus"),
    *("vorbis", "libvorbis", "ra_144", "ra_288", "sipr", "wavpack", "wmav1", "wmav2", "wmapro"),
    *("wmalossless", "wmavoice", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms"),
    *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le"),
    *("pcm_s32be", "pcm_s32le", "pcm_f32be", "pcm_f32le"),
)
"""FFmpeg's decoders of sound that a file can reach."""


def read_container(data: bytes, demuxer: str) -> Iterator[Block]:
    """Decode the first sound track of a container.

    Args:
        data: The container.
        demuxer: FFmpeg's name of its format.

    Raises:
        DecodeError: If the container is damaged or has no sound. What precedes the damage can be
            used.
    """
    try:
        av = _import_av()
    except ImportError as error:
        raise DecodeError(f"PyAV cannot be imported: {error}") from error
    try:
        options = {"codec_whitelist": ",".join(_CODECS), "max_streams": str(MAX_STREAMS)}
        with av.open(
            MemoryFile(data),
            format=demuxer,
            container_options=options,
            metadata_errors="replace",
            io_open=_refuse_to_open,
        ) as container:
            yield from _read_track(av, container, demuxer)
    # PyAV raises the errors of FFmpeg, and Python's own where a value is out of range.
    except (
        av.FFmpegError,
        ArithmeticError,
        LookupError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(reason, is_fatal=False) from error
    except MemoryError as error:
        raise DecodeError("it declares too much data", is_fatal=False) from error


def _read_track(av: Any, container: Any, demuxer: str) -> Iterator[Block]:
    if not container.streams.audio:
        raise DecodeError("it has no sound")
    track = container.streams.audio[0]
    context = track.codec_context
    if context is None or context.name not in _CODECS:
        raise DecodeError(f"its sound is in {context.name if context else 'an unknown format'}")
    context.options = {"max_samples": str(MAX_FRAME_SAMPLES)}
    context.thread_count = 1
    # The planes of a frame of PyAV run past their end from 8 channels on, so frames are packed.
    packer = av.AudioResampler(format="flt")
    total = rate = channels = 0
    for frame in chain(container.decode(track), [None]):
        if frame and not rate:
            rate, channels = frame.sample_rate, frame.layout.nb_channels
            yield rate, np.empty((0, channels), np.float32)
        # A frame of another rate or layout is a ValueError.
        for packed in packer.resample(frame) if rate else ():
            block = packed.to_ndarray().reshape(-1, channels)
            total += len(block)
            yield rate, block
    declared = _declared_seconds(container, track) if demuxer in _DECLARE_LENGTH else 0.0
    if rate and total / rate < declared * (1 - MISSING_SHARE) - MISSING_SECONDS:
        raise DecodeError(f"its header declares {declared:.1f} s", is_fatal=False)


def _declared_seconds(container: Any, track: Any) -> float:
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    # The length of the container is that of its longest track.
    alone = container.duration and len(container.streams) == 1
    return container.duration / 1e6 if alone else 0.0


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a container must not refer to other files")


@cache
def _import_av() -> Any:
    import av
    import av._core

    # PyAV has no function for this limit. The libraries of FFmpeg are dependencies of its module.
    library = ctypes.CDLL(av._core.__file__)
    library.av_max_alloc.argtypes = [ctypes.c_size_t]
    library.av_max_alloc(MAX_ALLOCATION_BYTES)
    return av
