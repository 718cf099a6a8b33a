"""Encoders: from the arrays of a kind to one feature vector per sample.

An encoder is a backbone, which gives one vector of its own width per sample, and a head, which maps
that vector to D features. Backbones are small `transformers` models trained from scratch, or
pretrained ones (`dimml.nn.pretrained`). Fixed steps of a kind (the log-mel of a power spectrogram,
averaging over frames) are part of the encoder, so the exported graph contains them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

from dimml.errors import RecipeError
from dimml.modalities import Audio, Flow, Image, Kind, Text

TOP_DECIBELS = 80.0
_MINIMUM_POWER = 1e-10

RESNETS: dict[str, dict[str, Any]] = {
    "small": {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1]},
    "resnet18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
}
BERTS: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
    },
}


class LogMel(nn.Module):
    """Log-mel spectrogram of a power spectrogram, normalised per clip.

    The spectrogram equals librosa's `melspectrogram` and `power_to_db` (reference 1, floor 80 dB
    below the clip's maximum). Each clip then has its mean subtracted and is divided by its standard
    deviation, so that features do not depend on the recording level.

    Args:
        sample_rate: Sample rate in Hz.
        n_fft: Samples per frame.
        n_mels: Mel bands; None keeps the linear frequencies.
    """

    filters: Tensor | None

    def __init__(self, sample_rate: int, n_fft: int, n_mels: int | None) -> None:
        super().__init__()
        filters = None
        if n_mels is not None:
            # Imported here because only the mel filters need librosa, which is slow to import.
            import librosa.filters

            filters = torch.from_numpy(
                librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels)
            )
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, power: Tensor) -> Tensor:
        """Map power [N, n_fft / 2 + 1, frames] to [N, bands, frames] with mean 0, variance 1."""
        decibels = self.decibels(power)
        centred = decibels - _clip_mean(decibels)
        variance = _clip_mean(centred.square())
        # Added to the variance, 1 dB² keeps silence, whose variance is 0, at 0.
        return centred / (variance + 1.0).sqrt()

    def decibels(self, power: Tensor) -> Tensor:
        """Map power [N, n_fft / 2 + 1, frames] to decibels [N, bands, frames]."""
        bands = power if self.filters is None else self.filters @ power
        decibels = 10.0 * bands.clamp_min(_MINIMUM_POWER).log10()
        maximum = decibels.amax(dim=(1, 2), keepdim=True)
        return torch.maximum(decibels, maximum - TOP_DECIBELS)


def _clip_mean(values: Tensor) -> Tensor:
    """Return the mean [N, 1, 1] of each clip of [N, bands, frames].

    onnxruntime adds the values of one mean one after the other in float32, which for the 250,000
    values of ten seconds changed features by 1e-4. A mean of means has short sums.
    """
    return values.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)


class PooledResNet(nn.Module):
    """A ResNet that maps images [N, C, H, W] to the mean over positions, [N, width]."""

    def __init__(self, channels: int, sizes: dict[str, Any]) -> None:
        super().__init__()
        model = ResNetModel(ResNetConfig(num_channels=channels, layer_type="basic", **sizes))
        # On a CPU, convolutions in this layout take a third less time per training step.
        convert: Any = model.to
        convert(memory_format=torch.channels_last)
        self.model = model
        self.width = int(sizes["hidden_sizes"][-1])

    def forward(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden.mean(dim=(2, 3))


class SpectrogramResNet(nn.Module):
    """A ResNet on the log-mel of `power` [N, n_fft / 2 + 1, frames], to [N, width]."""

    def __init__(self, log_mel: LogMel, sizes: dict[str, Any]) -> None:
        super().__init__()
        self.log_mel = log_mel
        self.resnet = PooledResNet(1, sizes)
        self.width = self.resnet.width

    def forward(self, power: Tensor) -> Tensor:
        pooled: Tensor = self.resnet(self.log_mel(power).unsqueeze(1))
        return pooled


class PooledBert(nn.Module):
    """A BERT that maps token ids and mask [N, tokens] to the mean over tokens, [N, width]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.model = BertModel(config, add_pooling_layer=False)
        self.width = int(config.hidden_size)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return pooled


class Encoder(nn.Module):
    """Base class: a backbone to [N, width] and a head to features [N, D]."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


class PowerEncoder(Encoder):
    """Map `power` float32 [N, n_fft / 2 + 1, frames] to features [N, D]."""

    def forward(self, power: Tensor) -> Tensor:
        features: Tensor = self.head(self.backbone(power))
        return features


class WaveformEncoder(Encoder):
    """Map `waveform` float32 [N, samples] to features [N, D]."""

    def forward(self, waveform: Tensor) -> Tensor:
        features: Tensor = self.head(self.backbone(waveform))
        return features


class ImageEncoder(Encoder):
    """Map `pixels` float32 [N, C, H, W] to features [N, D]; average over T for [N, T, C, H, W]."""

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.head(pool_frames(self.backbone, pixels))
        return features


class FlowEncoder(Encoder):
    """Map `flow` float32 [N, T, 2, H, W] to features [N, D], the average over T."""

    def forward(self, flow: Tensor) -> Tensor:
        features: Tensor = self.head(pool_frames(self.backbone, flow))
        return features


class TextEncoder(Encoder):
    """Map `input_ids` and `attention_mask` int64 [N, tokens] to features [N, D]."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        features: Tensor = self.head(self.backbone(input_ids, attention_mask))
        return features


def pool_frames(backbone: nn.Module, pixels: Tensor) -> Tensor:
    """Return the backbone's output for [N, C, H, W], or its mean over T for [N, T, C, H, W]."""
    pooled: Tensor = backbone(pixels if pixels.ndim == 4 else pixels.flatten(0, 1))
    if pixels.ndim == 5:
        pooled = pooled.view(-1, pixels.shape[1], pooled.shape[1]).mean(dim=1)
    return pooled


def build_encoder(
    kind: Kind,
    feature_dim: int,
    *,
    preset: str = "small",
    n_mels: int | None = 64,
    dropout: float = 0.1,
) -> Encoder:
    """Build an untrained encoder for a modality.

    Args:
        kind: The modality, whose preprocessing determines the input's shape.
        feature_dim: The size D of a feature vector.
        preset: "small" or "resnet18" (audio, image and flow).
        n_mels: Mel bands of audio; None for a linear spectrogram.
        dropout: Dropout inside the transformer of text.

    Raises:
        RecipeError: If the kind has no such preset.
    """
    backbone: PooledResNet | SpectrogramResNet | PooledBert
    if isinstance(kind, Audio):
        if kind.config.output != "power":
            raise RecipeError(f"{kind.name}: the preset {preset} needs `output: power`")
        log_mel = LogMel(kind.config.sample_rate, kind.config.n_fft, n_mels)
        backbone = SpectrogramResNet(log_mel, _preset(kind, preset, RESNETS))
    elif isinstance(kind, Image):
        backbone = PooledResNet(kind.config.channels, _preset(kind, preset, RESNETS))
    elif isinstance(kind, Flow):
        backbone = PooledResNet(2, _preset(kind, preset, RESNETS))
    elif isinstance(kind, Text):
        config = BertConfig(
            vocab_size=kind.vocab_size,
            max_position_embeddings=kind.config.max_length,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **_preset(kind, preset, BERTS),
        )
        backbone = PooledBert(config)
    else:
        raise RecipeError(f"{kind.name}: no encoder for {type(kind).__name__}")
    return join_encoder(kind, backbone, nn.Linear(backbone.width, feature_dim))


def join_encoder(kind: Kind, backbone: nn.Module, head: nn.Module) -> Encoder:
    """Return the encoder of a kind from its backbone and its head."""
    classes: dict[str, type[Encoder]] = {
        "power": PowerEncoder,
        "waveform": WaveformEncoder,
        "pixels": ImageEncoder,
        "flow": FlowEncoder,
        "input_ids": TextEncoder,
    }
    return classes[kind.input_names[0]](backbone, head)


def _preset(kind: Kind, preset: str, presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if preset not in presets:
        raise RecipeError(
            f"{kind.name}: no encoder preset {preset!r}; choose one of: {', '.join(presets)}; or "
            "give a pretrained model as `encoder: {pretrained: <hub id or folder>}`"
        )
    return presets[preset]
