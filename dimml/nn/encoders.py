"""Encoders: from the arrays of a kind to one feature vector per sample.

Backbones are `transformers` models: small configurations trained from scratch, or pretrained
safetensors weights. Fixed steps of a kind (the log-mel of a power spectrogram, averaging over
frames) are part of the encoder, so the exported graph contains them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
)

from dimml.errors import RecipeError
from dimml.modalities import Audio, Image, Kind, Text

Source: TypeAlias = str | Mapping[str, Any] | None
"""A pretrained backbone: its hub id or folder, or the result of `backbone_config`."""

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
        centred = decibels - decibels.mean(dim=(1, 2), keepdim=True)
        variance = centred.square().mean(dim=(1, 2), keepdim=True)
        # Added to the variance, 1 dB² keeps silence, whose variance is 0, at 0.
        return centred / (variance + 1.0).sqrt()

    def decibels(self, power: Tensor) -> Tensor:
        """Map power [N, n_fft / 2 + 1, frames] to decibels [N, bands, frames]."""
        bands = power if self.filters is None else self.filters @ power
        decibels = 10.0 * bands.clamp_min(_MINIMUM_POWER).log10()
        maximum = decibels.amax(dim=(1, 2), keepdim=True)
        return torch.maximum(decibels, maximum - TOP_DECIBELS)


class SpectrogramEncoder(nn.Module):
    """Map `power` float32 [N, n_fft / 2 + 1, frames] to features [N, D]."""

    def __init__(self, log_mel: LogMel, backbone: PreTrainedModel, feature_dim: int) -> None:
        super().__init__()
        self.log_mel = log_mel
        self.backbone = backbone
        self.projection = nn.Linear(_width(backbone), feature_dim)

    def forward(self, power: Tensor) -> Tensor:
        image = self.log_mel(power).unsqueeze(1)
        features: Tensor = self.projection(_pooled(self.backbone, image))
        return features


class ImageEncoder(nn.Module):
    """Map `pixels` float32 [N, C, H, W] to features [N, D]; average over T for [N, T, C, H, W]."""

    def __init__(self, backbone: PreTrainedModel, feature_dim: int, frames: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.frames = frames
        self.projection = nn.Linear(_width(backbone), feature_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = _pooled(self.backbone, pixels if self.frames is None else pixels.flatten(0, 1))
        if self.frames is not None:
            pooled = pooled.view(-1, self.frames, pooled.shape[1]).mean(dim=1)
        features: Tensor = self.projection(pooled)
        return features


class TextEncoder(nn.Module):
    """Map `input_ids` and `attention_mask` int64 [N, tokens] to features [N, D]."""

    def __init__(self, backbone: PreTrainedModel, feature_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = nn.Linear(_width(backbone), feature_dim)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        features: Tensor = self.projection((hidden * mask).sum(dim=1) / mask.sum(dim=1))
        return features


def build_encoder(
    kind: Kind,
    feature_dim: int,
    *,
    preset: str = "small",
    pretrained: str | None = None,
    n_mels: int | None = 64,
    dropout: float = 0.1,
    backbone: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the encoder of a modality.

    Args:
        kind: The modality, whose preprocessing determines the input's shape.
        feature_dim: The size D of a feature vector.
        preset: "small", "resnet18" (audio and image) or "pretrained".
        pretrained: For the preset "pretrained", a hub id or a local folder with safetensors.
        n_mels: Mel bands of audio; None for a linear spectrogram.
        dropout: Dropout inside the transformer of text.
        backbone: For the preset "pretrained", the result of `backbone_config`, which builds the
            backbone untrained, without reading the hub or the folder.

    Raises:
        RecipeError: If the kind has no such preset, or the pretrained weights cannot be loaded.
    """
    source = backbone or pretrained
    if isinstance(kind, Audio):
        log_mel = LogMel(kind.config.sample_rate, kind.config.n_fft, n_mels)
        return SpectrogramEncoder(log_mel, _vision(kind, preset, source, 1), feature_dim)
    if isinstance(kind, Image):
        model = _vision(kind, preset, source, kind.config.channels)
        return ImageEncoder(model, feature_dim, kind.config.frames)
    if isinstance(kind, Text):
        return TextEncoder(_text(kind, preset, source, dropout), feature_dim)
    raise RecipeError(f"{kind.name}: no encoder for {type(kind).__name__}")


def backbone_config(encoder: nn.Module) -> dict[str, Any]:
    """Return the configuration of an encoder's backbone as plain JSON types."""
    backbone: Any = encoder.get_submodule("backbone")
    document: dict[str, Any] = json.loads(backbone.config.to_json_string(use_diff=False))
    return document


def _vision(kind: Kind, preset: str, source: Source, channels: int) -> PreTrainedModel:
    if preset == "pretrained":
        return _pretrained(kind, source)
    size = _preset(kind, preset, RESNETS)
    backbone = ResNetModel(ResNetConfig(num_channels=channels, layer_type="basic", **size))
    # On a CPU, convolutions in this layout take a third less time per training step.
    convert: Any = backbone.to
    convert(memory_format=torch.channels_last)
    return backbone


def _text(kind: Text, preset: str, source: Source, dropout: float) -> PreTrainedModel:
    if preset == "pretrained":
        backbone = _pretrained(kind, source)
        _check_fits(kind, backbone.config)
        return backbone
    config = BertConfig(
        vocab_size=kind.vocab_size,
        max_position_embeddings=kind.config.max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **_preset(kind, preset, BERTS),
    )
    return BertModel(config, add_pooling_layer=False)


def _preset(kind: Kind, preset: str, presets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if preset not in presets:
        choices = ", ".join([*presets, "pretrained"])
        raise RecipeError(f"{kind.name}: no encoder preset {preset!r}; choose one of: {choices}")
    return presets[preset]


def _pretrained(kind: Kind, source: Source) -> PreTrainedModel:
    model: PreTrainedModel
    if isinstance(source, Mapping):
        from_config: Any = AutoModel.from_config
        model = from_config(AutoConfig.for_model(**source), dtype=torch.float32)
        return model
    if not source:
        raise RecipeError(
            f"{kind.name}: the preset `pretrained` needs `pretrained: <hub id or folder>`"
        )
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        model = AutoModel.from_pretrained(
            source, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise RecipeError(
            f"{kind.name}: cannot load {source!r} as a hub id or a folder with config.json and "
            f"model.safetensors: {error}"
        ) from error
    required_input = "input_ids" if isinstance(kind, Text) else "pixel_values"
    if model.main_input_name != required_input:
        raise RecipeError(
            f"{kind.name}: the model {source!r} reads {model.main_input_name}; choose a model that "
            f"reads {required_input}"
        )
    # `from_pretrained` returns the model in eval mode, and Lightning keeps the mode of a module.
    model.train()
    return model


def _check_fits(kind: Text, config: Any) -> None:
    """Reject a tokenizer or a length for which the backbone has no embeddings."""
    if kind.vocab_size > config.vocab_size:
        raise RecipeError(
            f"{kind.name}: the tokenizer has {kind.vocab_size} tokens and the pretrained model has "
            f"{config.vocab_size}; set `tokenizer` to the model's own tokenizer.json"
        )
    if kind.config.max_length > config.max_position_embeddings:
        raise RecipeError(
            f"{kind.name}: max_length is {kind.config.max_length} and the pretrained model reads "
            f"at most {config.max_position_embeddings} tokens; lower max_length"
        )


def _width(backbone: PreTrainedModel) -> int:
    sizes = getattr(backbone.config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else backbone.config.hidden_size)


def _pooled(backbone: PreTrainedModel, pixels: Tensor) -> Tensor:
    """Map pixels [N, C, H, W] to [N, width], the mean over the backbone's positions or tokens."""
    # Repeat the channel of a grey image or spectrogram for a backbone that reads three channels.
    pixels = pixels.expand(-1, getattr(backbone.config, "num_channels", pixels.shape[1]), -1, -1)
    hidden: Tensor = backbone(pixel_values=pixels).last_hidden_state
    return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)
