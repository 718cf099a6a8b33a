"""What a training starts with: decoded splits, modality specifications, pretrained models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dimml import __version__
from dimml.errors import ManifestError, RecipeError, list_first
from dimml.modalities import KINDS, Kind
from dimml.modalities.text import TOKENIZER, plain_text
from dimml.modality_specs import ModalitySpec, build_kinds
from dimml.nn.pretrained.adapter import AdapterName
from dimml.progress import print_status
from dimml.table import Row
from train.data.cache import Split, cached_split
from train.data.features import FrozenEncoder, stored_kinds
from train.data.splits import (
    SHOWN_LABELS,
    labelled_rows,
    read_training_splits,
    train_tokenizer,
)
from train.data.store import FeatureStore, open_store, remove_old_stores
from train.pretrained import PretrainedModel, read_model
from train.pretrained.adapters import choose_adapter
from train.recipe import ModalityConfig, Recipe


@dataclass(frozen=True)
class PreparedData:
    """The data of a recipe, the same for every seed and method.

    Attributes:
        labels: Class names in order.
        specs: Modality to specification.
        assets: Modality to the content of its assets.
        kinds: Modality to kind.
        splits: The decoded splits "train" and "validation".
        settings: Everything besides the rows that determines the arrays, see `cached_split`.
        models: Modality to pretrained model, for modalities that have one.
        frozen: Modality to frozen encoder, for modalities that have one.
        adapters: Modality to the adapter of its pretrained model.
    """

    labels: tuple[str, ...]
    specs: Mapping[str, ModalitySpec]
    assets: Mapping[str, Mapping[str, bytes]]
    kinds: Mapping[str, Kind]
    splits: Mapping[str, Split]
    settings: str
    models: Mapping[str, PretrainedModel]
    frozen: Mapping[str, FrozenEncoder]
    adapters: Mapping[str, AdapterName]

    @property
    def stored(self) -> dict[str, Kind]:
        """The kinds of what the splits hold: features where the encoder is frozen."""
        return stored_kinds(self.kinds, self.frozen)


def prepare(recipe: Recipe, cache: Path) -> PreparedData:
    """Read and decode the data of a recipe, once for all runs that share a cache.

    Raises:
        UsageError: If the recipe or its data cannot be used.
    """
    models = read_models(recipe)
    rows = read_training_splits(recipe.source)
    labels = tuple(sorted({row.label for row in rows["train"] if row.label is not None}))
    _report_unlabelled(rows["train"])
    specs, assets = specifications(recipe, rows["train"], models)
    kinds = build_kinds(specs, assets, recipe.source.layout)
    settings = json.dumps([spec.model_dump(mode="json") for spec in specs.values()]) + repr(assets)
    frozen = _frozen_encoders(recipe, kinds, models, cache)
    settings += repr([(name, *encoder.identity) for name, encoder in frozen.items()])
    plain = {name: encoder.without_views() for name, encoder in frozen.items()}
    splits = {
        split: cached_split(
            split_rows,
            kinds,
            labels,
            split,
            cache,
            settings,
            frozen if split == "train" else plain,
        )
        for split, split_rows in rows.items()
    }
    for encoder in frozen.values():
        encoder.release()
    train = splits["train"]
    check_readable(train.labels, train.present, train.problems, labels, list(kinds))
    adapters = {name: _adapter(recipe, name, splits, len(labels)) for name in models}
    return PreparedData(labels, specs, assets, kinds, splits, settings, models, frozen, adapters)


def read_models(recipe: Recipe) -> dict[str, PretrainedModel]:
    """Return the pretrained model of each modality that has one, see `read_model`."""
    return {
        name: read_model(name, modality)
        for name, modality in recipe.modalities.items()
        if modality.encoder.pretrained
    }


def _frozen_encoders(
    recipe: Recipe,
    kinds: Mapping[str, Kind],
    models: Mapping[str, PretrainedModel],
    cache: Path,
) -> dict[str, FrozenEncoder]:
    encoders = {}
    stores: dict[str, FeatureStore] = {}
    for name, model in models.items():
        config = recipe.modalities[name]
        if not config.encoder.frozen:
            continue
        identity = hashlib.sha256(
            json.dumps([__version__, model.identity(), dict(model.preprocessing)]).encode()
            + repr(model.assets).encode()
        ).hexdigest()[:16]
        # Modalities with the same model share its store.
        if identity not in stores:
            stores[identity] = open_store(cache, model.settings.model, identity)
        encoders[name] = FrozenEncoder(
            kinds[name],
            model,
            stores[identity],
            views=config.encoder.views or 1,
            augmentation=config.augment,
        )
    remove_old_stores(cache, stores.values())
    return encoders


def _adapter(recipe: Recipe, name: str, splits: Mapping[str, Split], classes: int) -> AdapterName:
    encoder = recipe.modalities[name].encoder
    if encoder.adapter in ("linear", "mlp"):
        return encoder.adapter
    if not encoder.frozen:
        return "linear"
    return choose_adapter(name, splits, recipe.feature_dim, classes)


def _report_unlabelled(rows: Sequence[Row]) -> None:
    if count := sum(row.label is None for row in rows):
        print_status(
            f"train: {count} of {len(rows)} rows have no label; only the DUC loss of the method "
            "`dimml` uses them, after the warm-up (see docs/method.md)"
        )


def check_readable(
    row_labels: np.ndarray,
    present: np.ndarray,
    problems: Sequence[str],
    labels: Sequence[str],
    modalities: Sequence[str],
) -> None:
    """Reject a train split that has too few readable labelled rows.

    Args:
        row_labels: int64 [N], the labels of the readable rows, see `Split`.
        present: bool [N, M], the modalities that can be read.
        problems: One line per cell that cannot be read.
        labels: Class names in order.
        modalities: Names in slot order.

    Raises:
        ManifestError: If a label has no readable row, or a modality fewer than two.
    """
    labelled = labelled_rows(row_labels)
    classes = set(row_labels[labelled].tolist())
    if lost := [label for number, label in enumerate(labels) if number not in classes]:
        raise ManifestError(
            f"no readable row of the train split has the label "
            f"{list_first(lost, SHOWN_LABELS)}; the first "
            f"cell that cannot be read: {problems[0]}"
        )
    for name, count in zip(modalities, present[labelled].sum(axis=0), strict=True):
        if count < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split have a readable cell; "
                f"the first cell that cannot be read: {problems[0]}"
            )


def specifications(
    recipe: Recipe, rows: Sequence[Row], models: Mapping[str, PretrainedModel]
) -> tuple[dict[str, ModalitySpec], dict[str, dict[str, bytes]]]:
    """Return the specification and the assets of each modality.

    Args:
        recipe: The recipe.
        rows: The rows of the train split, whose texts train tokenizers.
        models: Modality to pretrained model, for modalities that have one.

    Raises:
        RecipeError: If the tokenizer that the recipe names cannot be read.
        ManifestError: If a tokenizer is trained and no text can be read.
    """
    specs: dict[str, ModalitySpec] = {}
    assets: dict[str, dict[str, bytes]] = {}
    for name, config in recipe.modalities.items():
        model = models.get(name)
        if model is not None:
            preprocessing, assets[name] = dict(model.preprocessing), dict(model.assets)
        else:
            Config = KINDS[config.kind].Config  # noqa: N806
            preprocessing = Config.model_validate(config.preprocessing).model_dump(mode="json")
            assets[name] = {}
            if config.kind == "text":
                longest = preprocessing["max_characters"]
                read = (plain_text(row.sample[name], longest) for row in rows)
                texts = [text for text in read if text]
                assets[name] = {TOKENIZER: _tokenizer(name, config, texts)}
        specs[name] = ModalitySpec(
            kind=config.kind,
            graph=f"{name}.onnx",
            inputs=KINDS[config.kind].inputs_of(preprocessing),
            preprocessing=preprocessing,
            encoder=model.settings.model if model else str(config.encoder.preset),
            pretrained=model is not None,
            assets={asset: f"{name}.{asset}" for asset in assets[name]},
        )
    return specs, assets


def _tokenizer(name: str, config: ModalityConfig, texts: Sequence[str]) -> bytes:
    if config.tokenizer is None:
        if not texts:
            raise ManifestError(
                f"{name}: no text of the train split can be read, so there is no tokenizer to train"
            )
        return train_tokenizer(texts, config.vocab_size)
    try:
        return config.tokenizer.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"modalities.{name}.tokenizer: cannot read {config.tokenizer} ({error.strerror}); give "
            "the path of a tokenizer.json, or leave the key out to train one"
        ) from error
