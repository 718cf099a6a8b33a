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
        self.model: nn.Module = model
        self.front_end: AudioFrontEnd | None = None
        if settings.kind == "audio":
            self.front_end = build_front_end(settings.family.front_end, settings.front_end)
        self.width = pooled_width(settings)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode; frozen layers and batch normalisations always stay in eval mode.

        Batch statistics of a small data set would spoil those of the pretraining.
        """
        super().train(mode)
        for module in self.model.modules():
            weights = list(module.parameters())
            frozen = bool(weights) and not any(weight.requires_grad for weight in weights)
            if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

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
        count_frames: Any = getattr(self.model, "_get_feat_extract_output_lengths", None)
        if count_frames is None:
            return self._pool(states)
        return _mean(states.last_hidden_state, count_frames(used).clamp_min(1))

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask if self.settings.masked else None
        states = self.model(input_ids=input_ids, attention_mask=mask)
        if self.settings.pooling != "mean":
            return self._pool(states)
        hidden = states.last_hidden_state
        return _weighted_mean(hidden, attention_mask.to(hidden.dtype))

    def _pool(self, states: Any) -> Tensor:
        if self.settings.pooling == "pooler":
            pooled: Tensor = states.pooler_output
            return pooled.flatten(1)
        hidden: Tensor = states.last_hidden_state
        if self.settings.pooling == "cls":
            return hidden[:, 0]
        return hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)


MAX_GRAPH_BYTES = 2**31 - 2**24
"""A graph is one file of at most 2 GiB; this leaves room for what is not weights."""


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
    disable_progress_bar: Any = transformers.utils.logging.disable_progress_bar
    disable_progress_bar()
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
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RecipeError(
            f"cannot load the weights of {settings.model}: {error}; download the model again"
        ) from error
    other_shape = [key for key, *_ in info["mismatched_keys"]]
    missing = {key for key in [*info["missing_keys"], *other_shape] if _is_used(key, settings)}
    if missing:
        raise RecipeError(
            f"the weights of {settings.model} lack {len(missing)} tensors of the model "
            f"{settings.model_type}, or have them in another shape, such as {min(missing)}; "
            "download the model again"
        )
    backbone = Backbone(settings, getattr(model, family.part) if family.part else model).eval()
    size = sum(4 * weight.numel() for weight in backbone.parameters())
    if size > MAX_GRAPH_BYTES:
        raise RecipeError(
            f"{settings.model} has {size / 1e9:.1f} GB of weights, but a graph holds at most 2 GB; "
            "choose a smaller model of the family"
        )
    return backbone


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
    if not key.startswith(settings.family.part):
        return False
    # Only the pretraining masks parts of the input.
    if "mask_token" in key or "masked_spec_embed" in key:
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
    return _weighted_mean(states, (steps < frames.unsqueeze(1)).to(states.dtype))


def _weighted_mean(states: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of states [N, T, width] with weights [N, T]."""
    # Divided before they are added up, large features do not overflow in float16.
    shares = (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(2)
    return (states * shares).sum(dim=1)


def pooled_width(settings: PretrainedSettings) -> int:
    """Return the size of the pooled features of a model.

    Raises:
        RecipeError: If its configuration does not tell.
    """
    config = settings.config
    if settings.model_type == "mobilenet_v2":
        return _mobilenet_width(config)
    for key in ("neck_hidden_sizes", "hidden_sizes"):
        if config.get(key):
            return int(config[key][-1])
    for key in ("hidden_size", "d_model", "dim", "hidden_dim"):
        if config.get(key):
            return int(config[key])
    raise RecipeError(f"the size of the features of a {settings.model_type} is unknown")


def _mobilenet_width(config: Mapping[str, Any]) -> int:
    from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import apply_depth_multiplier

    if config["finegrained_output"] and config["depth_multiplier"] < 1.0:
        return 1280
    model: Any = transformers.AutoConfig.for_model(**config)
    return int(apply_depth_multiplier(model, 1280))
