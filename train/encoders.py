"""The encoders of a model: as training needs them, and as a run keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dimml.modalities import Kind
from dimml.nn.encoders import Encoder, build_encoder, join_encoder
from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.adapter import Adapter
from dimml.nn.pretrained.backbone import Backbone, PretrainedSettings, build_backbone
from train.data.prepare import PreparedData
from train.methods import build_method
from train.methods.base import Method
from train.pretrained.adapters import sample_features
from train.pretrained.tuning import prepare_tuning
from train.recipe import ModalityConfig, Recipe

STATISTICS_SAMPLES = 256
"""Training samples from which the scale of a tuned model's features is taken."""


def build_model(
    recipe: Recipe, encoders: list[nn.Module], classes: int
) -> tuple[MultimodalModel, Method]:
    """Build an untrained model and its method, initialised by torch's current seed.

    Args:
        recipe: The recipe of the run.
        encoders: One encoder per modality, in slot order.
        classes: K.
    """
    model = MultimodalModel(list(recipe.modalities), encoders, recipe.feature_dim, classes)
    return model, build_method(recipe.method, recipe.options, recipe.training, model)


def training_encoders(recipe: Recipe, prepared: PreparedData) -> list[nn.Module]:
    """Return the encoders to train, in slot order.

    The encoder of a frozen model is its adapter alone, because the splits hold the features.
    """
    return [_training_encoder(name, recipe, prepared) for name in prepared.kinds]


def _training_encoder(name: str, recipe: Recipe, prepared: PreparedData) -> nn.Module:
    modality, dim = recipe.modalities[name], recipe.feature_dim
    if name not in prepared.models:
        return _preset_encoder(prepared.kinds[name], modality, dim)
    train = prepared.splits["train"]
    if name in prepared.frozen:
        adapter = Adapter(prepared.frozen[name].width, dim, prepared.adapters[name])
        adapter.standardize(sample_features(train, name)[0])
        return adapter
    backbone = prepared.models[name].load()
    adapter = Adapter(backbone.width, dim, prepared.adapters[name])
    adapter.standardize(_backbone_features(backbone, prepared, name))
    prepare_tuning(backbone, modality.encoder)
    return join_encoder(prepared.kinds[name], backbone, adapter).train()


@torch.no_grad()
def _backbone_features(backbone: Backbone, prepared: PreparedData, name: str) -> Tensor:
    """Return the features of some training samples, each alone, so that none is padded."""
    train, kind = prepared.splits["train"], prepared.kinds[name]
    rows = np.flatnonzero(train.present[:, train.modalities.index(name)])
    rows = rows[:: max(1, len(rows) // STATISTICS_SAMPLES)]
    encoder = join_encoder(kind, backbone.eval(), nn.Identity())
    features = []
    for row in rows:
        inputs = kind.collate([train[int(row)][name]])
        features.append(encoder(**{key: torch.from_numpy(value) for key, value in inputs.items()}))
    return torch.cat(features)


def _preset_encoder(kind: Kind, modality: ModalityConfig, feature_dim: int) -> Encoder:
    config = modality.encoder
    return build_encoder(
        kind,
        feature_dim,
        preset=str(config.preset),
        n_mels=config.n_mels,
        dropout=config.dropout,
    )


def join_frozen(model: MultimodalModel, prepared: PreparedData) -> None:
    """Put the frozen backbones in front of their trained adapters, as a bundle needs them."""
    for slot, name in enumerate(prepared.kinds):
        if name in prepared.frozen:
            backbone = prepared.models[name].load()
            adapter = model.encoders[slot]
            model.encoders[slot] = join_encoder(prepared.kinds[name], backbone, adapter).eval()


def encoder_documents(prepared: PreparedData) -> dict[str, Any]:
    """Return what `run_encoders` needs to rebuild the pretrained encoders, as plain JSON types."""
    return {
        name: {"adapter": prepared.adapters[name], **model.settings.model_dump(mode="json")}
        for name, model in prepared.models.items()
    }


def run_encoders(
    recipe: Recipe, kinds: Mapping[str, Kind], documents: Mapping[str, Any]
) -> list[nn.Module]:
    """Return the untrained encoders of a finished run, whose weights come from the run.

    Args:
        recipe: The recipe of the run.
        kinds: Modality to kind.
        documents: The result of `encoder_documents`.
    """
    encoders: list[nn.Module] = []
    for name, kind in kinds.items():
        if name not in documents:
            encoders.append(_preset_encoder(kind, recipe.modalities[name], recipe.feature_dim))
            continue
        settings = dict(documents[name])
        adapter = settings.pop("adapter")
        backbone = build_backbone(PretrainedSettings.model_validate(settings))
        head = Adapter(backbone.width, recipe.feature_dim, adapter)
        encoders.append(join_encoder(kind, backbone, head))
    return encoders
