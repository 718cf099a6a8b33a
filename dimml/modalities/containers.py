"""Containers such as MP4 and WebM, opened by PyAV from memory, and the sound in them.

PyAV is FFmpeg, which reads whatever a file refers to and trusts what it declares. This module opens
one container by its name, with chosen decoders, no other file, no network, and limits on streams,
on the samples of a frame and on each allocation.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any, Literal, NoReturn

import numpy as np

from dimml.modalities.decoders import Block, DecodeError, MemoryFile, NoTrackError

MAX_ALLOCATION_BYTES = 64 * 2**20
"""FFmpeg's limit on one allocation. An index takes 24 bytes per packet, and a container of 13 KB
that declares 80 million packets would take 3 GB."""

MAX_STREAMS = 16
MAX_FRAME_SAMPLES = 1_000_000
MISSING_SHARE, MISSING_SECONDS = 0.02, 0.2
"""A container may lack this share of its declared length, and these seconds, and be complete."""

_DECLARE_LENGTH = frozenset({"mov", "matroska", "asf"})
"""The containers whose header has the length. That of others is an estimate."""

_SOUND_CODECS = (
    *("aac", "aac_latm", "ac3", "eac3", "alac", "ape", "cook", "flac", "mp3", "mp3float"),
    *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb", "opus", "libopus"),
    *("mp2", "mp2float", "nellymoser", "speex", "libspeex", "adpcm_swf"),
    *("vorbis", "libvorbis", "ra_144", "ra_288", "sipr", "wavpack", "wmav1", "wmav2", "wmapro"),
    *("wmalossless", "wmavoice", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms"),
    *("pcm_alaw", "pcm_mulaw", "pcm_u8", "pcm_s16be", "pcm_s16le", "pcm_s24be", "pcm_s24le"),
    *("pcm_s32be", "pcm_s32le", "pcm_f32be", "pcm_f32le"),
)
"""FFmpeg's decoders of sound that a file can reach."""


_TRACKS = ("audio", "video")


@contextmanager
def open_container(data: bytes, demuxer: str, codecs: Sequence[str]) -> Iterator[Any]:
    """Open a container, and turn every error of decoding it into a `DecodeError`.

    Args:
        data: The container.
        demuxer: FFmpeg's name of its format.
        codecs: FFmpeg's decoders that the container can reach.
    """
    try:
        av = import_av()
    except ImportError as error:
        raise DecodeError(f"PyAV cannot be imported: {error}") from error
    try:
        options = {"codec_whitelist": ",".join(codecs), "max_streams": str(MAX_STREAMS)}
        with av.open(
            MemoryFile(data),
            format=demuxer,
            container_options=options,
            metadata_errors="replace",
            io_open=_refuse_to_open,
        ) as container:
            yield container
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


def read_container(data: bytes, demuxer: str) -> Iterator[Block]:
    """Decode the first sound track of a container.

    Args:
        data: The container.
        demuxer: FFmpeg's name of its format.

    Raises:
        NoTrackError: If the container has no sound track.
        DecodeError: If the container is damaged. What precedes the damage can be used.
    """
    with open_container(data, demuxer, _SOUND_CODECS) as container:
        yield from _read_track(container, demuxer)


def _read_track(container: Any, demuxer: str) -> Iterator[Block]:
    track = first_track(container, "audio", "sound")
    context = checked_context(track, _SOUND_CODECS, "sound")
    context.options = {"max_samples": str(MAX_FRAME_SAMPLES)}
    # The planes of a frame of PyAV run past their end from 8 channels on, so frames are packed.
    packer = import_av().AudioResampler(format="flt")
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
    declared = declared_seconds(container, track) if demuxer in _DECLARE_LENGTH else 0.0
    if rate and (missing := missing_end(declared, total / rate)):
        raise DecodeError(missing, is_fatal=False)


def first_track(container: Any, kind: Literal["audio", "video"], name: str) -> Any:
    """Return the first track of a kind. The cover of an album is no video.

    Raises:
        NoTrackError: If the container has a track of the other kind only.
        DecodeError: If the container has neither.
    """
    cover = import_av().stream.Disposition.attached_pic
    tracks = [track for track in container.streams if not track.disposition & cover]
    for track in tracks:
        if track.type == kind:
            return track
    error = NoTrackError if any(track.type in _TRACKS for track in tracks) else DecodeError
    raise error(f"it has no {name}")


def checked_context(track: Any, codecs: Sequence[str], name: str) -> Any:
    """Return the decoder of a track.

    Raises:
        DecodeError: If the track needs another decoder than those of `codecs`.
    """
    context = track.codec_context
    if context is None or context.name not in codecs:
        raise DecodeError(f"its {name} is in {context.name if context else 'an unknown format'}")
    context.thread_count = 1
    return context


def missing_end(declared: float, seconds: float) -> str:
    """Return what a file of so many seconds lacks of its declared seconds, "" if nothing."""
    if seconds < declared * (1 - MISSING_SHARE) - MISSING_SECONDS:
        return f"its header declares {declared:.1f} s"
    return ""


def declared_seconds(container: Any, track: Any) -> float:
    """Return the length of a track according to the header, 0 if that does not say it."""
    if track.duration and track.time_base:
        return float(track.duration * track.time_base)
    # The length of the container is that of its longest track.
    alone = container.duration and len(container.streams) == 1
    return container.duration / 1e6 if alone else 0.0


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a container must not refer to other files")


@cache
def import_av() -> Any:
    """Import PyAV, and set FFmpeg's limit on allocations."""
    import av
    import av._core

    # PyAV has no function for this limit. The libraries of FFmpeg are dependencies of its module.
    library = ctypes.CDLL(av._core.__file__)
    library.av_max_alloc.argtypes = [ctypes.c_size_t]
    library.av_max_alloc(MAX_ALLOCATION_BYTES)
    return av
