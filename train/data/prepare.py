"""What a training starts with: decoded splits, modality specifications, an untrained model."""

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
    """The data of a recipe, the same for every seed and method.

    Attributes:
        labels: Class names in order.
        specs: Modality to specification.
        assets: Modality to the content of its assets.
        kinds: Modality to kind.
        splits: The decoded splits "train" and "validation".
        settings: Everything besides the rows that determines the arrays, see `cached_split`.
    """

    labels: tuple[str, ...]
    specs: Mapping[str, ModalitySpec]
    assets: Mapping[str, Mapping[str, bytes]]
    kinds: Mapping[str, Kind]
    splits: Mapping[str, Split]
    settings: str


def prepare(recipe: Recipe, cache: Path) -> PreparedData:
    """Read and decode the data of a recipe, once for all runs that share a cache.

    Raises:
        UsageError: If the recipe or its data cannot be used.
    """
    names = {name: modality.kind for name, modality in recipe.modalities.items()}
    rows = read_training_splits(recipe.data, names)
    labels = tuple(sorted({row.label for row in rows["train"] if row.label is not None}))
    _report_unlabelled(rows["train"])
    specs, assets = _specifications(recipe, rows["train"])
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    settings = json.dumps([spec.model_dump(mode="json") for spec in specs.values()]) + repr(assets)
    splits = {
        split: cached_split(split_rows, kinds, labels, split, cache, settings)
        for split, split_rows in rows.items()
    }
    _check_readable(splits["train"], labels, list(kinds))
    return PreparedData(labels, specs, assets, kinds, splits, settings)


def build(
    recipe: Recipe,
    kinds: Mapping[str, Kind],
    classes: int,
    backbones: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[MultimodalModel, Method]:
    """Build an untrained model and its method, initialised by torch's current seed.

    Args:
        recipe: The recipe of the run.
        kinds: Modality to kind.
        classes: K.
        backbones: Configurations of the pretrained backbones of a finished run, whose weights come
            from the run.
    """
    encoders = [
        build_encoder(
            kind,
            recipe.feature_dim,
            **recipe.modalities[name].encoder.model_dump(),
            backbone=(backbones or {}).get(name),
        )
        for name, kind in kinds.items()
    ]
    model = MultimodalModel(list(kinds), encoders, recipe.feature_dim, classes)
    return model, build_method(recipe.method, recipe.options, recipe.training, model)


def _report_unlabelled(rows: Sequence[Row]) -> None:
    if count := sum(row.label is None for row in rows):
        print_status(
            f"train: {count} of {len(rows)} rows have no label; only the DUC loss of the method "
            "`dimml` uses them, after the warm-up (see docs/method.md)"
        )


def _check_readable(train: Split, labels: Sequence[str], modalities: Sequence[str]) -> None:
    """Reject a train split that has too few readable labelled rows.

    Raises:
        ManifestError: If a label has no readable row, or a modality fewer than two.
    """
    labelled = labelled_rows(train.labels)
    classes = set(train.labels[labelled].tolist())
    if lost := [label for number, label in enumerate(labels) if number not in classes]:
        raise ManifestError(
            f"no readable row of the train split has the label {', '.join(lost[:5])}; the first "
            f"cell that cannot be read: {train.problems[0]}"
        )
    for name, count in zip(modalities, train.present[labelled].sum(axis=0), strict=True):
        if count < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split have a readable cell; "
                f"the first cell that cannot be read: {train.problems[0]}"
            )


def _specifications(
    recipe: Recipe, rows: Sequence[Row]
) -> tuple[dict[str, ModalitySpec], dict[str, dict[str, bytes]]]:
    specs: dict[str, ModalitySpec] = {}
    assets: dict[str, dict[str, bytes]] = {}
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
            f"modalities.{name}.tokenizer: cannot read {config.tokenizer} ({error.strerror}); give "
            "the path of a tokenizer.json, or leave the key out to train one"
        ) from error
