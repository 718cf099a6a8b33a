"""A pretrained backbone: its settings, its loading, and its pooled features."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from dimml.errors import RecipeError
from dimml.nn.pretrained.families import FAMILIES, UNKNOWN, Family, Pooling
from dimml.nn.pretrained.front_ends import AudioFrontEnd, build_front_end


class PretrainedSettings(pydantic.BaseModel):
    """Everything that defines a pretrained backbone except its weights.

    Attributes:
        model: Hub id, or name of the local folder.
        revision: Commit of the hub; None for a local folder.
        kind: Kind of the modality.
        config: Content of the model's configuration; of one tower for a model of two towers.
        front_end: Arguments of the audio front end.
        pooling: See `Family.pooling`.
        masked: Whether the text model is given the attention mask.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str | None = None
    kind: str
    config: dict[str, Any]
    front_end: dict[str, Any] = {}
    pooling: Pooling
    masked: bool = True

    @property
    def model_type(self) -> str:
        """The `model_type` of the configuration."""
        return str(self.config["model_type"])

    @property
    def family(self) -> Family:
        """The family of the model."""
        return FAMILIES[self.kind].get(self.model_type, UNKNOWN[self.kind])


class Backbone(nn.Module):
    """A front end, a pretrained model and its pooling: from the inputs of a kind to [N, width].

    Args:
        settings: The settings.
        model: The model, from `load_model` or `build_model`.

    Attributes:
        width: Size of the pooled features.
    """

    def __init__(self, settings: PretrainedSettings, model: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.model = model
        self.front_end: AudioFrontEnd | None = None
        if settings.kind == "audio":
            self.front_end = build_front_end(settings.family.front_end, settings.front_end)
        self.width = _width(model, settings.config)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map the inputs of the kind, in its order, to pooled features [N, width]."""
        if mask is not None:
            return self._encode_text(values, mask)
        if self.front_end is None:
            return self._pool(self.model(pixel_values=values))
        values, used = self.front_end(values)
        if self.settings.model_type == "whisper":
            return _mean(_whisper_states(self.model, values), (used + 1) // 2)
        states = self.model(values)
        if self.settings.pooling != "mean":
            return self._pool(states)
        lengths: Any = self.model
        frames = lengths._get_feat_extract_output_lengths(used).clamp_min(1)
        return _mean(states.last_hidden_state, frames)

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask if self.settings.masked else None
        states = self.model(input_ids=input_ids, attention_mask=mask)
        if self.settings.pooling != "mean":
            return self._pool(states)
        hidden = states.last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled

    def _pool(self, states: Any) -> Tensor:
        if self.settings.pooling == "pooler":
            pooled: Tensor = states.pooler_output
            return pooled.flatten(1)
        hidden: Tensor = states.last_hidden_state
        if self.settings.pooling == "cls":
            return hidden[:, 0]
        return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)


def load_backbone(settings: PretrainedSettings, folder: Path) -> Backbone:
    """Load a backbone with its weights.

    Args:
        settings: The settings, see `train.pretrained.read_folder`.
        folder: Folder with `config.json` and safetensors.

    Raises:
        RecipeError: If the weights cannot be loaded, or some are missing.
    """
    family = settings.family
    logging.getLogger("transformers").setLevel(logging.ERROR)
    loader: Any = getattr(transformers, family.loader)
    try:
        model, info = loader.from_pretrained(
            folder,
            config=_config(settings),
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=family.attention,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RecipeError(f"cannot load the weights of {settings.model}: {error}") from error
    missing = [key for key in info["missing_keys"] if _is_used(key, settings)]
    if missing:
        raise RecipeError(
            f"the weights of {settings.model} lack {len(missing)} tensors of the model "
            f"{settings.model_type}, such as {sorted(missing)[0]}; download the model again"
        )
    return Backbone(settings, getattr(model, family.part) if family.part else model).eval()


def build_backbone(settings: PretrainedSettings) -> Backbone:
    """Build a backbone with random weights, without reading a folder or the hub."""
    family, config = settings.family, _config(settings)
    config._attn_implementation = family.attention
    loader: Any = getattr(transformers, family.loader)
    if family.part:
        return Backbone(
            settings, getattr(sys.modules[loader.__module__], family.part_class)(config)
        )
    build = loader.from_config if family.loader == "AutoModel" else loader
    return Backbone(settings, build(config))


def _config(settings: PretrainedSettings) -> Any:
    config = transformers.AutoConfig.for_model(**settings.config)
    # Randomly masked spectra and skipped layers belong to the pretraining.
    for key, value in {"apply_spec_augment": False, "layerdrop": 0.0}.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _is_used(key: str, settings: PretrainedSettings) -> bool:
    """Return whether the pooled features depend on a weight."""
    unused = ("decoder.", "masked_spec_embed", "mask_token", "projection.")
    if any(part in key for part in unused):
        return False
    return settings.pooling == "pooler" or "pooler." not in key


def _whisper_states(encoder: Any, mel: Tensor) -> Tensor:
    """Run Whisper's encoder on [N, n_mels, frames] of any even number of frames up to its window.

    `WhisperEncoder.forward` accepts its full window only.
    """
    gelu = nn.functional.gelu
    states = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)
    states = states + encoder.embed_positions.weight[: states.shape[1]]
    states = nn.functional.dropout(states, encoder.dropout, encoder.training)
    for layer in encoder.layers:
        states = layer(states, None)
    normalized: Tensor = encoder.layer_norm(states)
    return normalized


def _mean(states: Tensor, frames: Tensor) -> Tensor:
    """Return the mean of states [N, T, width] over the first `frames` [N] of each row."""
    steps = torch.arange(states.shape[1], device=states.device)
    used = (steps < frames.unsqueeze(1)).to(states.dtype).unsqueeze(2)
    return (states * used).sum(dim=1) / used.sum(dim=1)


def _width(model: Any, config: Mapping[str, Any]) -> int:
    if config["model_type"] == "mobilenet_v2":
        return int(model.conv_1x1.convolution.out_channels)
    for key in ("neck_hidden_sizes", "hidden_sizes"):
        if config.get(key):
            return int(config[key][-1])
    for key in ("hidden_size", "d_model", "dim", "hidden_dim"):
        if config.get(key):
            return int(config[key])
    raise RecipeError(f"the size of the features of a {config['model_type']} is unknown")
