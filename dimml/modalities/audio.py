"""Audio: from a recording to a power spectrogram or to samples.

Mel filters, logarithms and normalisation are the first layers of an encoder, so they are part of
its graph. With those of `dimml.nn.encoders`, the power spectrogram of this module equals librosa's
`melspectrogram` followed by `power_to_db`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import soundfile
import soxr

from dimml.modalities.base import Arrays, KindConfig
from dimml.modalities.recordings import RecordingKind

SILENCE_AMPLITUDE = 1e-4
"""A recording with a lower peak amplitude is silent. Full scale is 1."""


class AudioConfig(KindConfig):
    """The preprocessing of audio.

    Attributes:
        sample_rate: Rate in Hz to which every recording is resampled.
        seconds: Fixed length. A longer recording is cut to its middle, and a shorter recording is
            filled up. None keeps the length of each recording.
        max_seconds: With `seconds: null`, a longer recording is cut to its middle.
        step_seconds: With `seconds: null`, silence is added up to a multiple of this length, so
            that recordings of about equal length share a graph call. 0 adds nothing.
        fill: What a shorter recording is filled up with: `silence`, as many whole repetitions as
            fit and then silence (`repeat`), or repetitions of which the last is cut (`loop`).
        output: `power` (a spectrogram) or `waveform` (the samples).
        n_fft: Samples of a frame and of its Hann window.
        hop_length: Samples between the starts of frames.
        edges: What the first and the last frame reach into: `silence`, or the recording mirrored
            at its ends (`reflect`).
    """

    sample_rate: Annotated[int, pydantic.Field(ge=1_000, le=192_000)] = 16_000
    seconds: Annotated[float, pydantic.Field(gt=0, le=600)] | None = 1.0
    max_seconds: Annotated[float, pydantic.Field(gt=0, le=600)] | None = None
    step_seconds: Annotated[float, pydantic.Field(ge=0, le=60)] = 0.0
    fill: Literal["silence", "repeat", "loop"] = "silence"
    output: Literal["power", "waveform"] = "power"
    n_fft: Annotated[int, pydantic.Field(ge=16, le=16_384)] = 512
    hop_length: Annotated[int, pydantic.Field(ge=1)] = 160
    edges: Literal["silence", "reflect"] = "silence"


@dataclass(frozen=True)
class Recording:
    """A decoded mono recording at the configured rate.

    Attributes:
        samples: float32 [samples].
        notes: Notes for the user about the file.
    """

    samples: np.ndarray
    notes: tuple[str, ...] = ()


class Audio(RecordingKind):
    """Recordings in WAV, FLAC, OGG, MP3 and the other formats of libsndfile, and in containers.

    Graph input: `power`, float32 [N, n_fft / 2 + 1, frames], or `waveform`, float32 [N, samples].
    """

    Config = AudioConfig
    config: AudioConfig
    input_names = ("power",)

    @classmethod
    def inputs_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        return (AudioConfig.model_validate(dict(config)).output,)

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        config = self.config
        self.input_names = (config.output,)
        # scipy.signal has this Hann window, but its import takes half a second.
        phase = 2 * np.pi * np.arange(config.n_fft) / config.n_fft
        self._window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        self._length = None if config.seconds is None else self._samples(config.seconds)

    def decode(self, value: Any) -> Recording:
        """Decode a recording, mix it to mono and resample it.

        Args:
            value: See `RecordingKind.read_samples`. The rate of an array is `sample_rate`.
        """
        samples, rate, notes = self.read_samples(value, self.config.sample_rate)
        if rate != self.config.sample_rate:
            samples = soxr.resample(samples, rate, self.config.sample_rate)
        if not len(samples):
            raise self.error(
                "unreadable",
                f"the recording is shorter than one sample at {self.config.sample_rate:,} Hz",
            )
        return Recording(samples, notes)

    def preprocess(self, raw: Recording) -> Arrays:
        """Return the samples [samples] or the power spectrogram [n_fft / 2 + 1, frames]."""
        samples = self._fit(raw.samples)
        if self.config.output == "waveform":
            return {"waveform": np.ascontiguousarray(samples, np.float32)}
        return {"power": self._power(samples)}

    def _fit(self, samples: np.ndarray) -> np.ndarray:
        """Cut a recording to its middle, or fill it up."""
        length = self._target_length(len(samples))
        start = max(0, (len(samples) - length) // 2)
        samples = samples[start : start + length]
        if self.config.fill == "repeat":
            samples = np.tile(samples, length // len(samples))
        elif self.config.fill == "loop":
            samples = np.resize(samples, length)
        return np.pad(samples, (0, length - len(samples)))

    def _target_length(self, available: int) -> int:
        if self._length is not None:
            return self._length
        if self.config.max_seconds is not None:
            available = min(available, self._samples(self.config.max_seconds))
        if not self.config.step_seconds:
            return available
        step = self._samples(self.config.step_seconds)
        return step * math.ceil(available / step)

    def _samples(self, seconds: float) -> int:
        return max(1, round(seconds * self.config.sample_rate))

    def _power(self, samples: np.ndarray) -> np.ndarray:
        """Return the power spectrogram of centred frames, float32 [n_fft / 2 + 1, frames]."""
        # A lazy import, because scipy.fft takes 40 percent of the import time of the predictor.
        import scipy.fft

        half = self.config.n_fft // 2
        mode = "reflect" if self.config.edges == "reflect" and len(samples) > 1 else "constant"
        padded = np.pad(np.asarray(samples, np.float32), half, mode=mode)  # type: ignore[call-overload]
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.config.n_fft)
        spectrum = scipy.fft.rfft(frames[:: self.config.hop_length] * self._window, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return np.ascontiguousarray(power.T, dtype=np.float32)

    def warnings(self, raw: Recording) -> tuple[str, ...]:
        notes = list(raw.notes)
        if np.abs(raw.samples).max(initial=0.0) < SILENCE_AMPLITUDE:
            notes.append("the recording is silent")
        used = self._target_length(len(raw.samples))
        if used < len(raw.samples):
            rate = self.config.sample_rate
            notes.append(
                f"the recording lasts {len(raw.samples) / rate:.1f} s; only the middle "
                f"{used / rate:g} s was used"
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
