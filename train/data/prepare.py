"""From a recipe to what training starts with: decoded splits, specifications, a fresh model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.bundle import ModalitySpec, build_kind
from dimml.errors import ManifestError, RecipeError
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import build_encoder
from dimml.nn.model import MultimodalModel
from dimml.progress import print_status
from dimml.table import Row
from train.data.cache import Split, cached_split
from train.data.splits import labelled_rows, read_training_splits, train_tokenizer
from train.methods import build_method
from train.methods.base import Method
from train.recipe import ModalityConfig, Recipe


@dataclass(frozen=True)
class PreparedData:
    """What training needs of the data, the same for every seed and method.

    Attributes:
        labels: class names, in order.
        specs: modality to its specification.
        assets: modality to the content of its assets.
        kinds: the modalities.
        splits: "train" and "validation", decoded.
        settings: what the decoded arrays depend on beside the rows, see `cached_split`.
    """

    labels: tuple[str, ...]
    specs: Mapping[str, ModalitySpec]
    assets: Mapping[str, Mapping[str, bytes]]
    kinds: Mapping[str, Kind]
    splits: Mapping[str, Split]
    settings: str


def prepare(recipe: Recipe, cache: Path) -> PreparedData:
    """Reads and decodes the data of a recipe, once for all runs that share a cache.

    Raises:
        UsageError: the recipe or its data does not do.
    """
    names = {name: modality.kind for name, modality in recipe.modalities.items()}
    rows = read_training_splits(recipe.data, names)
    labels = tuple(sorted({row.label for row in rows["train"] if row.label is not None}))
    _tell_unlabelled(rows["train"])
    specs, assets = _specifications(recipe, rows["train"])
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    settings = json.dumps([spec.model_dump(mode="json") for spec in specs.values()]) + repr(assets)
    splits = {
        split: cached_split(given, kinds, labels, split, cache, settings)
        for split, given in rows.items()
    }
    _check_readable(splits["train"], labels, list(kinds))
    return PreparedData(labels, specs, assets, kinds, splits, settings)


def build(
    recipe: Recipe,
    kinds: Mapping[str, Kind],
    classes: int,
    backbones: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[MultimodalModel, Method]:
    """An untrained model and its method, initialised by torch's current seed.

    Args:
        recipe: of the run.
        kinds: the modalities.
        classes: K.
        backbones: configurations of pretrained backbones that were loaded before.
    """
    known = backbones or {}
    encoders = [
        build_encoder(
            kind,
            recipe.feature_dim,
            **recipe.modalities[name].encoder.model_dump(),
            backbone=known.get(name),
        )
        for name, kind in kinds.items()
    ]
    model = MultimodalModel(list(kinds), encoders, recipe.feature_dim, classes)
    return model, build_method(recipe.method, recipe.options, recipe.training, model)


def _tell_unlabelled(rows: Sequence[Row]) -> None:
    if count := sum(row.label is None for row in rows):
        print_status(
            f"train: {count} of {len(rows)} rows have no label: they are for a DUC loss, which "
            "`dimml` has after its warm-up (docs/method.md); other methods leave them out"
        )


def _check_readable(train: Split, labels: Sequence[str], modalities: Sequence[str]) -> None:
    """Refuses a train split whose labelled rows can be read too rarely to learn from.

    Raises:
        ManifestError: no readable row has one of the labels, or fewer than two have a modality.
    """
    known = labelled_rows(train.labels)
    found = set(train.labels[known].tolist())
    if lost := [label for number, label in enumerate(labels) if number not in found]:
        raise ManifestError(
            f"no readable row of the train split has the label {', '.join(lost[:5])}; the first "
            f"cell that cannot be read: {train.problems[0]}"
        )
    for name, count in zip(modalities, train.present[known].sum(axis=0), strict=True):
        if count < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split have it readable; the "
                f"first cell that cannot be read: {train.problems[0]}"
            )


def _specifications(
    recipe: Recipe, rows: Sequence[Row]
) -> tuple[dict[str, ModalitySpec], dict[str, dict[str, bytes]]]:
    specs, assets = {}, {}
    for name, config in recipe.modalities.items():
        kind = KINDS[config.kind]
        assets[name] = {}
        if config.kind == "text":
            texts = [row.sample[name] for row in rows if isinstance(row.sample[name], str)]
            assets[name] = {"tokenizer.json": _tokenizer(name, config, texts)}
        specs[name] = ModalitySpec(
            kind=config.kind,
            graph=f"{name}.onnx",
            inputs=kind.input_names,
            preprocessing=kind.Config.model_validate(config.preprocessing).model_dump(mode="json"),
            encoder=config.encoder.preset,
            assets={asset: f"{name}.{asset}" for asset in assets[name]},
        )
    return specs, assets


def _tokenizer(name: str, config: ModalityConfig, texts: Sequence[str]) -> bytes:
    if config.tokenizer is None:
        return train_tokenizer(texts, config.vocab_size)
    try:
        return config.tokenizer.read_bytes()
    except OSError as error:
        raise RecipeError(
            f"modalities.{name}.tokenizer: cannot read {config.tokenizer} ({error.strerror}); name "
            "a tokenizer.json, or leave the key out to train one"
        ) from error
