"""A training run: a folder that holds all of it, from recipe to calibrated checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from safetensors.torch import load_file, save_file

from dimml.bundle import Conformal, ModalitySpec, build_kind
from dimml.errors import RecipeError, UsageError
from dimml.files import locked_folder, write_atomic
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import backbone_config, build_encoder
from dimml.nn.model import DetachedModel
from dimml.table import Row
from train.cache import cached_split
from train.calibrate import calibrate, conformal, conformal_rows
from train.config import ModalityConfig, Recipe, load_recipe
from train.data import fingerprint, read_training_splits, train_tokenizer
from train.fit import RunData, fit
from train.folder import DATA, RECIPE, RUN, check_folder, stoppable
from train.module import DetachedModule

WEIGHTS = "model.safetensors"
CACHE = "cache"
"""Beside the run's folder: the decoded data, shared by the runs there."""


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder."""

    recipe: Recipe
    labels: tuple[str, ...]
    specs: Mapping[str, ModalitySpec]
    assets: Mapping[str, Mapping[str, bytes]]
    kinds: Mapping[str, Kind]
    model: DetachedModel
    conformal: Conformal
    document: Mapping[str, Any]


def train_run(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Trains a recipe into a folder.

    Raises:
        UsageError: the recipe, its data or the folder does not do, see `check_folder`; or another
            process is training there.
        InterruptedRunError: stopped by Ctrl-C or SIGTERM; `resume` goes on from the last whole
            epoch.
        KeyboardInterrupt: stopped before the first epoch ended.
    """
    with locked_folder(folder, "training into", "another with --out"), stoppable(folder):
        _train(recipe, folder, resume)


def _train(recipe: Recipe, folder: Path, resume: bool) -> None:
    started = time.monotonic()
    table = {"path": str(recipe.data.absolute()), "sha256": fingerprint(recipe.data)}
    check_folder(folder, _dump(recipe), table["sha256"], resume)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    names = {name: modality.kind for name, modality in recipe.modalities.items()}
    rows = read_training_splits(recipe.data, names)
    labels = tuple(sorted({str(row.label) for row in rows["train"]}))
    specs, assets = _specifications(recipe, rows["train"])
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    settings = json.dumps([spec.model_dump(mode="json") for spec in specs.values()]) + repr(assets)
    splits = (
        cached_split(given, kinds, labels, split, folder.parent / CACHE, settings)
        for split, given in rows.items()
    )
    data = RunData(recipe, kinds, *splits)
    module = DetachedModule(_model(recipe, kinds, len(labels)), recipe)
    write_atomic(folder / RECIPE, _dump(recipe))
    write_atomic(folder / DATA, json.dumps(table) + "\n")
    best = fit(module, data, folder, resume)
    model = module.model.cpu().eval()
    document = {
        "name": recipe.name,
        "seed": recipe.seed,
        "labels": labels,
        "modalities": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        "data": table,
        "best": best,
        "backbones": _backbones(recipe, model),
        "conformal": _calibrate(model, data, recipe.coverage).model_dump(mode="json"),
        "effective_dimensions": dict(zip(kinds, model.effective.sum(dim=1).tolist(), strict=True)),
        "versions": {p: version(p) for p in ("torch", "transformers", "pytorch-lightning")},
        "python": platform.python_version(),
        "duration_seconds": round(time.monotonic() - started, 1),
    }
    for name, spec in specs.items():
        for asset, file in spec.assets.items():
            write_atomic(folder / file, assets[name][asset])
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    write_atomic(folder / RUN, json.dumps(document, indent=2) + "\n")


def load_run(folder: Path) -> Run:
    """Reads a finished run back; its recipe's `data` is where the table was at training.

    Raises:
        UsageError: the folder holds none, or the table is not there any more.
    """
    try:
        document = json.loads((folder / RUN).read_text())
    except OSError as error:
        raise UsageError(
            f"{folder} holds no finished run ({error}); make one with `dimml train RECIPE`"
        ) from error
    table = Path(document["data"]["path"])
    if not table.is_file():
        raise UsageError(
            f"the run in {folder} was trained on {table}, which is not there any more: put the "
            "table and its files back, or train again"
        )
    # A bundle repeats this path, and should say no more of the machine than it has to.
    table = table.relative_to(Path.cwd()) if table.is_relative_to(Path.cwd()) else table
    document["data"]["path"] = str(table)
    recipe = load_recipe(folder / RECIPE).model_copy(update={"data": table})
    specs = {n: ModalitySpec.model_validate(s) for n, s in document["modalities"].items()}
    assets = {
        name: {asset: (folder / file).read_bytes() for asset, file in spec.assets.items()}
        for name, spec in specs.items()
    }
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    model = _model(recipe, kinds, len(document["labels"]), document["backbones"])
    model.load_state_dict(load_file(folder / WEIGHTS))
    fitted = Conformal.model_validate(document["conformal"])
    labels = tuple(document["labels"])
    return Run(recipe, labels, specs, assets, kinds, model.eval(), fitted, document)


def _dump(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


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


def _model(
    recipe: Recipe,
    kinds: Mapping[str, Kind],
    classes: int,
    backbones: Mapping[str, Mapping[str, Any]] | None = None,
) -> DetachedModel:
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
    return DetachedModel(list(kinds), encoders, recipe.feature_dim, classes)


def _backbones(recipe: Recipe, model: DetachedModel) -> dict[str, Any]:
    """Configurations of the pretrained backbones, so that a run stands without their source."""
    return {
        name: backbone_config(encoder)
        for (name, modality), encoder in zip(recipe.modalities.items(), model.encoders, strict=True)
        if modality.encoder.preset == "pretrained"
    }


@torch.no_grad()
def _calibrate(model: DetachedModel, data: RunData, coverage: float) -> Conformal:
    parts = [(model(b.inputs, b.present), b.present, b.labels) for b in data.val_dataloader()]
    features, present, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    held = conformal_rows(len(labels))
    logits = model.fusion.shared_classifier(features[~held])
    calibrate(model.fusion, model.modalities, logits, present[~held], labels[~held])
    return conformal(
        model.fusion, model.modalities, features[held], present[held], labels[held], coverage
    )
