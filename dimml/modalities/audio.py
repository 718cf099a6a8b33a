"""Audio: any recording to a power spectrogram.

The mel filter bank, the logarithm and the normalisation are the first layers of the encoder
(`dimml.nn.encoders`), so that the graph carries them; together the two equal librosa's
`melspectrogram` followed by `power_to_db`.
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

SILENCE = 1e-4
"""Peak amplitude (full scale is 1) under which a recording is called silent."""

LOUDEST = 1e10
"""Peak amplitude over which samples are damaged; much louder ones have infinite power."""

ACCEPTED = "WAV, FLAC, OGG and MP3 are accepted"
MAX_CHANNELS = 64
MAX_SAMPLE_RATE = 768_000
MAX_RATE_AT_LENGTH = 96_000
"""Samples per second, of all channels together, at which a recording may reach the limit of
seconds; what is denser takes as much memory sooner."""

_BLOCK = 65_536
_UNRECOGNISED_FORMAT = 1
_PCM = 1


class AudioConfig(KindConfig):
    """How audio is preprocessed.

    Attributes:
        sample_rate: Hz, what every recording is resampled to.
        seconds: fixed length: a longer recording keeps its middle, a shorter one is followed by
            silence. None keeps each recording at its own length.
        n_fft: samples in one frame and in its Hann window.
        hop_length: samples between frames.
    """

    sample_rate: Annotated[int, pydantic.Field(ge=1_000, le=192_000)] = 16_000
    seconds: Annotated[float, pydantic.Field(gt=0, le=600)] | None = 1.0
    n_fft: Annotated[int, pydantic.Field(ge=16, le=16_384)] = 512
    hop_length: Annotated[int, pydantic.Field(ge=1)] = 160


@dataclass(frozen=True)
class Recording:
    """A decoded recording: float32 [samples], mono, at the configured rate."""

    samples: np.ndarray


class _File(io.BytesIO):
    """Stays where it is when sent to a place before its beginning, as a damaged header may.

    An exception in a callback of libsndfile's would be printed, not raised.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class Audio(Kind):
    """Recordings: WAV, FLAC, OGG, MP3 and whatever else libsndfile reads.

    Graph input: `power`, float32 [N, n_fft / 2 + 1, frames].
    """

    Config = AudioConfig
    config: AudioConfig
    input_names = ("power",)

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        config = self.config
        # scipy.signal has this window, and takes half a second to import.
        phase = 2 * np.pi * np.arange(config.n_fft) / config.n_fft
        self._window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)
        self._length = (
            None if config.seconds is None else max(1, round(config.seconds * config.sample_rate))
        )

    def decode(self, value: Any) -> Recording:
        """Reads a recording, mixes it to mono and resamples it.

        Args:
            value: as `Kind.decode`; an array is float [samples] or [samples, channels], already
                at `sample_rate`.
        """
        if isinstance(value, np.ndarray):
            samples, rate = self._from_array(value), self.config.sample_rate
        else:
            samples, rate = self._from_file(self.read_bytes(value))
        # Written so that NaN fails it too.
        if not np.abs(samples).max() <= LOUDEST:
            raise self.error(
                "unreadable",
                "the recording holds NaN, infinite or absurdly large samples; full scale is 1",
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
        """The power spectrogram, float32 [n_fft / 2 + 1, frames], frames centred on their hop."""
        # Imported here because it takes two fifths of the time to import the predictor.
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
        found = []
        if np.abs(raw.samples).max(initial=0.0) < SILENCE:
            found.append("the recording is silent")
        if self._length is not None and len(raw.samples) > self._length:
            found.append(
                f"the recording lasts {len(raw.samples) / self.config.sample_rate:.1f} s; only "
                f"the middle {self.config.seconds:g} s was used"
            )
        return tuple(found)

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
                f"an array must be float [samples] or [samples, channels], at most {MAX_CHANNELS} "
                f"channels and not empty, got {value.dtype} {list(value.shape)}",
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
                raise self.error("unsupported_type", f"not an audio file; {ACCEPTED}") from error
            # The error's own text begins with the address of our buffer.
            reason = getattr(error, "error_string", str(error)).strip(" .")
            raise self.error(
                "unreadable",
                f"cannot decode the audio ({reason}); {ACCEPTED}: write it again as one",
            ) from error

    def _read(self, file: soundfile.SoundFile) -> np.ndarray:
        """Reads mono float32 [samples] block by block, so that the limit holds as it decodes."""
        if not 0 < file.samplerate <= MAX_SAMPLE_RATE:
            raise self.error(
                "unreadable",
                f"a sample rate of {file.samplerate:,} Hz; 1 to {MAX_SAMPLE_RATE:,} is accepted",
            )
        if file.channels > MAX_CHANNELS:
            raise self.error("unreadable", f"{file.channels} channels; at most {MAX_CHANNELS}")
        # A lying header must not pass for a long recording, nor allocate for one.
        blocks: list[np.ndarray] = []
        total = 0
        while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
            blocks.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
            total += len(block)
            self._check_length(total, file.samplerate)
            self._check_density(total * file.channels)
            if len(block) < _BLOCK:
                break
        if not total:
            raise self.error("unreadable", "the recording holds no samples")
        if total < file.frames and file.format in ("WAV", "WAVEX", "FLAC", "AIFF", "W64", "RF64"):
            raise self._truncated("samples", file.frames, total)
        return np.concatenate(blocks)

    def _check_length(self, samples: int, rate: int) -> None:
        if samples > self.limits.seconds * rate:
            raise self.error(
                "too_large", f"the recording is over the limit of {self.limits.seconds:g} s"
            )

    def _check_density(self, samples: int) -> None:
        most = self.limits.seconds * MAX_RATE_AT_LENGTH
        if samples > most:
            raise self.error(
                "too_large",
                f"the recording is over the limit of {most:,.0f} samples in all channels; write "
                "it at a lower rate or as mono",
            )

    def _read_wav(self, data: bytes) -> tuple[np.ndarray, int] | None:
        """Mono float32 [samples] and the rate of a plain 16-bit WAV, a tenth of libsndfile's time.

        None for any other file. Refuses a WAV whose header declares more than it holds, which
        libsndfile lets pass.
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
            position += size + size % 2
        return None

    def _truncated(self, unit: str, declared: int, available: int) -> InputError:
        return self.error(
            "unreadable",
            f"the recording is truncated: its header declares {declared:,} {unit} and it holds "
            f"{available:,}; write it again with a correct header",
        )

    def _read_pcm(
        self, data: bytes, start: int, size: int, layout: tuple[int, ...]
    ) -> tuple[np.ndarray, int] | None:
        if not layout:
            return None
        encoding, channels, rate, _, frame_bytes, bits = layout
        count = size // (2 * channels) if channels else 0
        is_plain = (encoding, bits, frame_bytes) == (_PCM, 16, 2 * channels)
        # libsndfile has the words for what is odd.
        if not (is_plain and count and channels <= MAX_CHANNELS and 0 < rate <= MAX_SAMPLE_RATE):
            return None
        self._check_length(count, rate)
        values = np.frombuffer(data, "<i2", count * channels, start).astype(np.float32)
        values /= np.float32(32_768)
        return (values if channels == 1 else values.reshape(-1, channels).mean(axis=1)), rate
