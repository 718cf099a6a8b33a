"""Audio: from a recording to a power spectrogram.

The mel filter bank, the logarithm and the normalisation are the first layers of the encoder
(`dimml.nn.encoders`), so they are part of its graph. Together, this module and these layers equal
librosa's `melspectrogram` followed by `power_to_db`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pydantic
import soundfile
import soxr

from dimml.errors import InputError
from dimml.modalities.base import Arrays, Kind, KindConfig

SILENCE_AMPLITUDE = 1e-4
"""A recording with a lower peak amplitude is silent. Full scale is 1."""

MAX_AMPLITUDE = 1e10
"""A recording with a higher peak amplitude is damaged. Far above, its power is infinite."""

ACCEPTED_FORMATS = "WAV, FLAC, OGG and MP3 are accepted"
MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 768_000
MAX_RATE_AT_LENGTH = 96_000
"""Samples per second, summed over channels, that a recording of maximum length may have. This
bounds the memory of a recording."""

_BLOCK_FRAMES = 65_536
_UNRECOGNISED_FORMAT = 1  # SF_ERR_UNRECOGNISED_FORMAT of libsndfile
_PCM = 1  # WAVE_FORMAT_PCM


class AudioConfig(KindConfig):
    """The preprocessing of audio.

    Attributes:
        sample_rate: Rate in Hz to which every recording is resampled.
        seconds: Fixed length. A longer recording is cut to its middle, and a shorter recording is
            padded with silence at its end. None keeps the length of each recording.
        n_fft: Samples of a frame and of its Hann window.
        hop_length: Samples between the starts of frames.
    """

    sample_rate: Annotated[int, pydantic.Field(ge=1_000, le=192_000)] = 16_000
    seconds: Annotated[float, pydantic.Field(gt=0, le=600)] | None = 1.0
    n_fft: Annotated[int, pydantic.Field(ge=16, le=16_384)] = 512
    hop_length: Annotated[int, pydantic.Field(ge=1)] = 160


@dataclass(frozen=True)
class Recording:
    """A decoded mono recording at the configured rate, float32 [samples]."""

    samples: np.ndarray


class _File(io.BytesIO):
    """A file that ignores a seek to before its start, which a damaged header can cause.

    libsndfile seeks in a callback, where an exception is printed instead of raised.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class Audio(Kind):
    """Recordings in WAV, FLAC, OGG, MP3 and the other formats of libsndfile.

    Graph input: `power`, float32 [N, n_fft / 2 + 1, frames].
    """

    Config = AudioConfig
    config: AudioConfig
    input_names = ("power",)

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        config = self.config
        # scipy.signal has this Hann window, but its import takes half a second.
        phase = 2 * np.pi * np.arange(config.n_fft) / config.n_fft
        self._window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        self._length = (
            None if config.seconds is None else max(1, round(config.seconds * config.sample_rate))
        )

    def decode(self, value: Any) -> Recording:
        """Decode a recording, mix it to mono and resample it.

        Args:
            value: See `Kind.decode`. An array is float [samples] or [samples, channels] at
                `sample_rate`.
        """
        if isinstance(value, np.ndarray):
            samples, rate = self._from_array(value), self.config.sample_rate
        else:
            samples, rate = self._from_file(self.read_bytes(value))
        # `not ... <=` also rejects NaN, unlike `>`.
        if not np.abs(samples).max() <= MAX_AMPLITUDE:
            raise self.error(
                "unreadable",
                "the recording has NaN, infinite or extremely large samples; full scale is 1",
            )
        if rate != self.config.sample_rate:
            samples = soxr.resample(samples, rate, self.config.sample_rate)
        if not len(samples):
            raise self.error(
                "unreadable",
                f"the recording is shorter than one sample at {self.config.sample_rate:,} Hz",
            )
        return Recording(samples)

    def preprocess(self, raw: Recording) -> Arrays:
        """Return the power spectrogram of centred frames, float32 [n_fft / 2 + 1, frames]."""
        # A lazy import, because scipy.fft takes 40 percent of the import time of the predictor.
        import scipy.fft

        length = self._length or len(raw.samples)
        start = max(0, (len(raw.samples) - length) // 2)
        samples = raw.samples[start : start + length]
        half = self.config.n_fft // 2
        padded = np.zeros(length + 2 * half, np.float32)
        padded[half : half + len(samples)] = samples
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.config.n_fft)
        spectrum = scipy.fft.rfft(frames[:: self.config.hop_length] * self._window, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return {"power": np.ascontiguousarray(power.T, dtype=np.float32)}

    def warnings(self, raw: Recording) -> tuple[str, ...]:
        notes = []
        if np.abs(raw.samples).max(initial=0.0) < SILENCE_AMPLITUDE:
            notes.append("the recording is silent")
        if self._length is not None and len(raw.samples) > self._length:
            notes.append(
                f"the recording lasts {len(raw.samples) / self.config.sample_rate:.1f} s; only "
                f"the middle {self.config.seconds:g} s was used"
            )
        return tuple(notes)

    def memory(self, raw: Recording) -> int:
        return int(raw.samples.nbytes)

    def example(self) -> bytes:
        seconds = self.config.seconds or 1.0
        time = np.arange(int(seconds * self.config.sample_rate)) / self.config.sample_rate
        file = io.BytesIO()
        tone = 0.1 * np.sin(2 * np.pi * 440 * time)
        soundfile.write(file, tone, self.config.sample_rate, format="WAV")
        return file.getvalue()

    def _from_array(self, value: np.ndarray) -> np.ndarray:
        if (
            value.ndim not in (1, 2)
            or not value.size
            or not np.issubdtype(value.dtype, np.floating)
            or value[0].size > MAX_CHANNELS
        ):
            raise self.error(
                "unreadable",
                "an array must be float [samples] or [samples, channels], not empty and with at "
                f"most {MAX_CHANNELS} channels, got {value.dtype} {list(value.shape)}",
            )
        self._check_length(len(value), self.config.sample_rate)
        return (value if value.ndim == 1 else value.mean(axis=1)).astype(np.float32)

    def _from_file(self, data: bytes) -> tuple[np.ndarray, int]:
        if pcm := self._read_wav(data):
            return pcm
        try:
            with soundfile.SoundFile(_File(data)) as file:
                return self._read(file), file.samplerate
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            if getattr(error, "code", None) == _UNRECOGNISED_FORMAT:
                raise self.error(
                    "unsupported_type", f"not an audio file; {ACCEPTED_FORMATS}"
                ) from error
            # The text of a libsndfile error begins with the memory address of the file object.
            reason = getattr(error, "error_string", str(error)).strip(" .")
            raise self.error(
                "unreadable",
                f"cannot decode the audio ({reason}); convert it again: {ACCEPTED_FORMATS}",
            ) from error

    def _read(self, file: soundfile.SoundFile) -> np.ndarray:
        """Decode mono float32 [samples] in blocks, and check the limits after each block."""
        if not 0 < file.samplerate <= MAX_SAMPLE_RATE:
            raise self.error(
                "unreadable",
                f"the sample rate is {file.samplerate:,} Hz; 1 to {MAX_SAMPLE_RATE:,} is accepted",
            )
        if file.channels > MAX_CHANNELS:
            raise self.error(
                "unreadable", f"{file.channels} channels; at most {MAX_CHANNELS} are accepted"
            )
        # A header can declare any length, so memory is allocated only for decoded blocks.
        blocks: list[np.ndarray] = []
        total = 0
        while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
            blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
            total += len(block)
            self._check_length(total, file.samplerate)
            self._check_density(total * file.channels)
            if len(block) < _BLOCK_FRAMES:
                break
        if not total:
            raise self.error("unreadable", "the recording has no samples")
        if total < file.frames and file.format in ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64"):
            raise self._truncated("samples", file.frames, total)
        return np.concatenate(blocks)

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

    def _read_wav(self, data: bytes) -> tuple[np.ndarray, int] | None:
        """Return mono float32 [samples] and the rate of a 16-bit PCM WAV, or None for other files.

        This takes a tenth of the time of libsndfile. Unlike libsndfile, it rejects a WAV whose
        header declares more bytes than the file has.
        """
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
                if size > (available := len(data) - position):
                    raise self._truncated("bytes of samples", size, available)
                return self._read_pcm(data, position, size, layout)
            position += size + size % 2  # Chunks start at even positions.
        return None

    def _truncated(self, unit: str, declared: int, available: int) -> InputError:
        return self.error(
            "unreadable",
            f"the recording is truncated: its header declares {declared:,} {unit}, but it has only "
            f"{available:,}; convert it again",
        )

    def _read_pcm(
        self, data: bytes, start: int, size: int, layout: tuple[int, ...]
    ) -> tuple[np.ndarray, int] | None:
        if not layout:
            return None
        encoding, channels, rate, _, frame_bytes, bits = layout
        count = size // (2 * channels) if channels else 0
        is_plain = (encoding, bits, frame_bytes) == (_PCM, 16, 2 * channels)
        # libsndfile reads or rejects every other layout.
        if not (is_plain and count and channels <= MAX_CHANNELS and 0 < rate <= MAX_SAMPLE_RATE):
            return None
        self._check_length(count, rate)
        values = np.frombuffer(data, "<i2", count * channels, start).astype(np.float32)
        values /= np.float32(32_768)
        return (values if channels == 1 else values.reshape(-1, channels).mean(axis=1)), rate
