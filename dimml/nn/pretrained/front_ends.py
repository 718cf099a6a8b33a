"""Front ends of pretrained audio models, as the first layers of their graphs.

Each front end equals the feature extractor of its family in `transformers`. A recording that was
filled up with silence ends in samples that are exactly 0. Front ends find the end of the recording
by that, so that neither normalisation nor pooling sees the silence.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

_MINIMUM_POWER = 1e-10


class AudioFrontEnd(nn.Module):
    """Base class: from the input of an audio graph to the input of its backbone."""

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input of the backbone, and the frames or samples of each recording, [N]."""
        raise NotImplementedError


class WhisperLogMel(AudioFrontEnd):
    """Log-mel of Whisper, from `power` [N, n_fft / 2 + 1, frames] to [N, n_mels, frames - 1].

    Source: `WhisperFeatureExtractor`; the last frame is dropped there too.
    """

    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, n_mels: int) -> None:
        super().__init__()
        # 8 kHz is fixed in the extractor.
        filters = _mel_filters(n_fft, n_mels, 0.0, 8000.0, sample_rate, "slaney", "slaney")
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        power = values[:, :, :-1]
        logarithm = (self.filters @ power).clamp_min(_MINIMUM_POWER).log10()
        floor = logarithm.amax(dim=(1, 2), keepdim=True) - 8.0
        mel = (torch.maximum(logarithm, floor) + 4.0) / 4.0
        return mel, used_length(power.amax(dim=1))


class ClapLogMel(AudioFrontEnd):
    """Log-mel in decibels of CLAP, from `power` [N, bins, frames] to [N, 1, frames, n_mels].

    Source: `ClapFeatureExtractor` with `truncation: rand_trunc`.
    """

    filters: Tensor

    def __init__(
        self, sample_rate: int, n_fft: int, n_mels: int, lowest: float, highest: float
    ) -> None:
        super().__init__()
        filters = _mel_filters(n_fft, n_mels, lowest, highest, sample_rate, "slaney", "slaney")
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        decibels = 10.0 * (self.filters @ values).clamp_min(_MINIMUM_POWER).log10()
        return decibels.transpose(1, 2).unsqueeze(1), used_length(values.amax(dim=1))


class KaldiFilterBank(AudioFrontEnd):
    """Kaldi's log-mel filter bank, from `waveform` [N, samples] to [N, max_frames, n_mels].

    Removing the mean of a frame, pre-emphasis, window and Fourier transform are linear, so one
    convolution holds them all. Source: `ASTFeatureExtractor`, and Kaldi's `compute-fbank-feats`.
    """

    WINDOW = 400
    HOP = 160
    N_FFT = 512
    PREEMPHASIS = 0.97
    FLOOR = 1.192092955078125e-07

    filters: Tensor
    transform: Tensor

    def __init__(
        self, sample_rate: int, n_mels: int, max_frames: int, mean: float, std: float
    ) -> None:
        super().__init__()
        self.max_frames, self.mean, self.std = max_frames, mean, std
        with warnings.catch_warnings():
            # Some low filters of the original have no frequency in them.
            warnings.simplefilter("ignore", UserWarning)
            filters = mel_filter_bank(
                self.N_FFT // 2 + 1,
                n_mels,
                min_frequency=20.0,
                max_frequency=sample_rate // 2,
                sampling_rate=sample_rate,
                norm=None,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
        self.register_buffer("filters", torch.from_numpy(filters.T).float(), persistent=False)
        self.register_buffer("transform", self._transform(), persistent=False)

    def _transform(self) -> Tensor:
        """Return the weights [2 * bins, 1, samples] of the real and then the imaginary parts."""
        size = self.WINDOW
        centre = np.eye(size) - 1.0 / size
        emphasis = np.eye(size) - self.PREEMPHASIS * np.eye(size, k=-1)
        emphasis[0, 0] -= self.PREEMPHASIS
        window = np.diag(np.hanning(size))
        angles = 2 * np.pi / self.N_FFT * np.outer(np.arange(self.N_FFT // 2 + 1), np.arange(size))
        fourier = np.concatenate([np.cos(angles), -np.sin(angles)])
        return torch.from_numpy(fourier @ window @ emphasis @ centre).float().unsqueeze(1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        spectrum = functional.conv1d(values.unsqueeze(1), self.transform, stride=self.HOP)
        real, imaginary = spectrum.chunk(2, dim=1)
        power = real.square() + imaginary.square()
        banks = (self.filters @ power).clamp_min(self.FLOOR).log().transpose(1, 2)
        frames = ((used_length(values.abs()) - self.WINDOW) // self.HOP + 1).clamp_min(0)
        steps = torch.arange(banks.shape[1], device=values.device)
        # The extractor fills up with zeros after the logarithm, before the normalisation.
        banks = torch.where((steps < frames.unsqueeze(1)).unsqueeze(2), banks, 0.0)
        padded = functional.pad(banks, (0, 0, 0, max(0, self.max_frames - banks.shape[1])))
        return (padded[:, : self.max_frames] - self.mean) / (2 * self.std), frames


class Waveform(AudioFrontEnd):
    """Samples [N, samples], each recording with mean 0 and variance 1 if `normalize`.

    Source: `Wav2Vec2FeatureExtractor`, which leaves the silence after a recording at 0.
    """

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        samples = used_length(values.abs())
        if not self.normalize:
            return values, samples
        steps = torch.arange(values.shape[1], device=values.device)
        used = (steps < samples.unsqueeze(1)).to(values.dtype)
        # Means, unlike sums and counts of samples, stay within the range of float16.
        share = used.mean(dim=1, keepdim=True)
        centred = (values - values.mean(dim=1, keepdim=True) / share) * used
        variance = centred.square().mean(dim=1, keepdim=True) / share
        return centred / (variance + 1e-7).sqrt(), samples


def build_front_end(kind: str, settings: dict[str, Any]) -> AudioFrontEnd:
    """Build the front end that `PretrainedSettings.front_end` describes."""
    classes: dict[str, type[AudioFrontEnd]] = {
        "whisper": WhisperLogMel,
        "clap": ClapLogMel,
        "kaldi": KaldiFilterBank,
        "waveform": Waveform,
    }
    return classes[kind](**settings)


def used_length(loudness: Tensor) -> Tensor:
    """Return the position after the last value above 0 of [N, T], int64 [N], at least 1."""
    steps = torch.arange(1, loudness.shape[1] + 1, device=loudness.device)
    return torch.where(loudness > 0, steps, 1).amax(dim=1)


def _mel_filters(
    n_fft: int, n_mels: int, lowest: float, highest: float, rate: int, norm: str, scale: str
) -> Tensor:
    filters = mel_filter_bank(
        n_fft // 2 + 1, n_mels, lowest, highest, rate, norm=norm, mel_scale=scale
    )
    return torch.from_numpy(filters.T).float()
