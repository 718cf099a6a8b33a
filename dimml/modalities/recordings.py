"""Recordings: from a file or an array to mono samples, with checks against damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dimml.errors import InputError
from dimml.modalities import formats
from dimml.modalities.base import Kind
from dimml.modalities.containers import read_container
from dimml.modalities.decoders import (
    Block,
    DecodeError,
    NoTrackError,
    end_of_tags,
    read_libsndfile,
    skip_padding,
)
from dimml.modalities.wav import Wav, pcm16, read_header, with_known_size
from dimml.samples import AudioArray

MAX_AMPLITUDE = 1e10
"""A recording with a higher peak amplitude is damaged. Far above, its power is infinite."""

MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 768_000
MAX_RATE_AT_LENGTH = 96_000
"""Samples per second, summed over channels, that a recording of maximum length may have. This
bounds the memory of a recording."""

Samples = tuple[np.ndarray, int, tuple[str, ...]]
"""Mono samples, float32 [samples], their rate in Hz, and notes for the user."""


class RecordingKind(Kind):
    """A kind whose values are recordings."""

    def accepts(self) -> str:
        media = formats.MEDIA_RECORDINGS
        extra = f"also {media}" if formats.is_installed("av") else f"not {media}"
        return f"a file: WAV, FLAC, OGG, MP3, AIFF and others of libsndfile; {extra}"

    def read_samples(self, value: Any, array_rate: int) -> Samples:
        """Return mono samples, float32 [samples], their rate in Hz, and notes for the user.

        Args:
            value: See `Kind.decode`, or an `AudioArray`, or a list of one of these. An array is
                float or int16, [samples] or [samples, channels].
            array_rate: The rate of an array.

        Raises:
            InputError: If the recording is unreadable, too large or damaged.
        """
        value = self.only_value(value)
        if self.shares_files and isinstance(value, list | tuple):
            raise self.absent("a list of pictures has no sound")
        if isinstance(value, np.ndarray):
            value = AudioArray(value, array_rate)
        if isinstance(value, AudioArray):
            samples, rate = self._from_array(value)
            notes: tuple[str, ...] = ()
        else:
            samples, rate, notes = self._from_file(self.read_bytes(value))
        # `not ... <=` also rejects NaN, unlike `>`.
        if not np.abs(samples).max() <= MAX_AMPLITUDE:
            raise self.error(
                "unreadable",
                "the recording has NaN, infinite or extremely large samples; full scale is 1",
            )
        return samples, rate, notes

    def _from_array(self, array: AudioArray) -> tuple[np.ndarray, int]:
        rate = array.rate
        if not isinstance(rate, int | np.integer) or isinstance(rate, bool):
            raise self.error("unreadable", f"the rate must be an integer in Hz, got {rate!r}")
        try:
            values = np.asarray(array.samples)
        except ValueError as error:
            raise self.error("unreadable", f"the samples are not an array: {error}") from error
        is_number = values.dtype == np.int16 or np.issubdtype(values.dtype, np.floating)
        if not is_number or values.ndim not in (1, 2) or not values.size:
            raise self.error(
                "unreadable",
                "an array must be float (full scale 1) or int16, [samples] or [samples, channels], "
                f"and not empty, got {values.dtype} {list(values.shape)}; divide other integers by "
                "their full scale",
            )
        self._check_layout(int(rate), values[0].size)
        self._check_length(len(values), int(rate))
        self._check_density(values.size)
        if values.dtype == np.int16:
            values = values.astype(np.float32) / np.float32(32_768)
        return (values if values.ndim == 1 else values.mean(axis=1)).astype(np.float32), int(rate)

    def _from_file(self, data: bytes) -> Samples:
        data = skip_padding(data)
        if wav := read_header(data):
            if wav.size > (available := len(data) - wav.start):
                raise self._damaged(
                    f"it is truncated: its header declares {wav.size:,} bytes of samples, but it "
                    f"has only {available:,}"
                )
            if (samples := self._read_pcm16(data, wav)) is not None:
                return samples, wav.layout[2], ()
            data = with_known_size(data, wav) if wav.is_streamed else data
        start = end_of_tags(data)
        found = formats.recognise(data[start : start + formats.RECOGNISED_BYTES])
        if found and found.demuxer:
            if not formats.is_installed("av"):
                raise self._unsupported(found)
            return self._join(read_container(data, found.demuxer), found)
        return self._join(read_libsndfile(data), found)

    def _read_pcm16(self, data: bytes, wav: Wav) -> np.ndarray | None:
        """Return the mono samples of a 16-bit PCM WAV; None for what libsndfile judges."""
        if not wav.is_pcm16:
            return None
        _, channels, rate, _, frame_bytes, _ = wav.layout
        count = wav.size // frame_bytes
        if not (count and channels <= MAX_CHANNELS and 0 < rate <= MAX_SAMPLE_RATE):
            return None
        self._check_length(count, rate)
        return _mono(pcm16(data, wav))

    def _join(self, blocks: Iterator[Block], found: formats.Format | None) -> Samples:
        """Join decoded blocks to mono samples, and check the limits after each block."""
        # A header can declare any length, so memory is allocated only for decoded blocks.
        parts: list[np.ndarray] = []
        total = rate = 0
        notes: tuple[str, ...] = ()
        try:
            for rate, block in blocks:
                self._check_layout(rate, block.shape[1])
                total += len(block)
                self._check_length(total, rate)
                self._check_density(total * block.shape[1])
                if len(block):
                    parts.append(_mono(block))
        except NoTrackError as error:
            raise self.absent("the video has no sound track") from error
        except DecodeError as error:
            if error.is_unknown:
                raise self._unsupported(found) from error
            if error.is_fatal or not total:
                raise self._damaged(error.reason) from error
            seconds = f"{total / rate:.1f}"
            notes = (f"the file is damaged ({error.reason}); only the first {seconds} s were read",)
        if not total:
            if self.shares_files and found and found.may_be_video:
                raise self.absent("the sound track of the video is empty")
            raise self.error("unreadable", "the recording has no samples")
        return np.concatenate(parts), rate, notes

    def _damaged(self, reason: str) -> InputError:
        # libsndfile says this of a file that is too short for its format.
        reason = "it is too short" if reason.startswith("File does not exist") else reason
        return self.error(
            "unreadable", f"cannot decode the audio ({reason}); convert it again: {_accepted()}"
        )

    def _unsupported(self, found: formats.Format | None) -> InputError:
        if found is None:
            return self.error("unsupported_type", f"not an audio file; {_accepted()}")
        if self.shares_files and found.content == "picture":
            raise self.absent(f"the file is {found.name}, which has no sound")
        message = formats.explain_unsupported(found, "recording", _accepted())
        return self.error("unsupported_type", message)

    def _check_layout(self, rate: int, channels: int) -> None:
        if not 0 < rate <= MAX_SAMPLE_RATE:
            raise self.error(
                "unreadable",
                f"the sample rate is {rate:,} Hz; 1 to {MAX_SAMPLE_RATE:,} is accepted",
            )
        if channels > MAX_CHANNELS:
            raise self.error(
                "unreadable", f"{channels:,} channels; at most {MAX_CHANNELS} channels are accepted"
            )

    def _check_length(self, samples: int, rate: int) -> None:
        if samples > self.limits.seconds * rate:
            raise self.error(
                "too_large", f"the recording is over the limit of {self.limits.seconds:g} s"
            )

    def _check_density(self, samples: int) -> None:
        limit = self.limits.seconds * MAX_RATE_AT_LENGTH
        if samples > limit:
            raise self.error(
                "too_large",
                f"the recording is over the limit of {limit:,.0f} samples in all channels; convert "
                "it to a lower rate or to mono",
            )


def _mono(samples: np.ndarray) -> np.ndarray:
    """Average the channels of float32 [samples, channels]."""
    mono: np.ndarray = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return mono


def _accepted() -> str:
    media = f", {formats.MEDIA_RECORDINGS}" if formats.is_installed("av") else ""
    return f"WAV, FLAC, OGG, MP3{media} are accepted"
