"""A training run: a folder that holds all of it, from recipe to calibrated checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from dimml.bundle import Conformal, ModalitySpec, build_kind, write_atomic
from dimml.errors import InterruptedRunError, UsageError
from dimml.modalities import Kind
from dimml.nn.encoders import build_encoder
from dimml.nn.model import DetachedModel
from dimml.progress import say
from dimml.runtime import available_cores
from train.calibrate import calibrate, conformal, conformal_rows
from train.config import Recipe
from train.data import (
    Collate,
    EpochSampler,
    Split,
    SplitDataset,
    fingerprint,
    load_split,
    read_split,
    train_tokenizer,
)
from train.module import BEST, DetachedModule

RUN = "run.json"
WEIGHTS = "model.safetensors"
LAST = "last.ckpt"


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


class RunData(lightning.LightningDataModule):
    """The loaders of a run; every order and change follows from the seed and the epoch."""

    def __init__(self, recipe: Recipe, kinds: Mapping[str, Kind], train: Split, val: Split) -> None:
        super().__init__()
        self.recipe, self.kinds, self.train, self.val = recipe, kinds, train, val

    def train_dataloader(self) -> Any:
        strengths = {name: spec.augment for name, spec in self.recipe.modalities.items()}
        return self._loader(self.train, strengths, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val, {}, training=False)

    def plain_train_dataloader(self) -> Any:
        """The training split in order and unchanged."""
        return self._loader(self.train, {}, training=False)

    def _loader(self, split: Split, strengths: Mapping[str, float], training: bool) -> Any:
        seed = self.recipe.seed
        return DataLoader(
            SplitDataset(split, strengths, seed),
            batch_size=self.recipe.training.batch_size,
            sampler=EpochSampler(len(split.labels), seed, shuffle=training),
            collate_fn=Collate(self.kinds, training),
        )


def train_run(recipe: Recipe, folder: Path, resume: bool) -> None:
    """Trains a recipe into a folder.

    Raises:
        UsageError: the folder holds a run and `resume` was not asked for, or the other way round.
        InterruptedRunError: stopped by Ctrl-C; `resume` goes on from the last whole epoch.
    """
    started = time.monotonic()
    _claim(folder, resume)
    settings = recipe.model_dump(mode="json")
    write_atomic(folder / "recipe.yaml", yaml.safe_dump(settings, sort_keys=False))
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    rows = {
        split: read_split(recipe.data, {n: m.kind for n, m in recipe.modalities.items()}, split)
        for split in ("train", "validation")
    }
    labels = tuple(sorted({str(row.label) for row in rows["train"]}))
    texts = {
        n: [r.sample[n] for r in rows["train"] if isinstance(r.sample[n], str)]
        for n in recipe.modalities
    }
    specs, assets = _specifications(recipe, texts)
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    data = RunData(
        recipe, kinds, *(load_split(rows[name], kinds, labels, name) for name in rows)
    )
    module = DetachedModule(_model(recipe, kinds, len(labels)), recipe)
    best = _fit(module, data, folder, resume)
    document = {
        "name": recipe.name,
        "seed": recipe.seed,
        "labels": labels,
        "modalities": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        "data": {"path": str(recipe.data), "sha256": fingerprint(recipe.data)},
        "best": best,
        "conformal": _calibrate(module, data, recipe).model_dump(mode="json"),
        "effective_dimensions": {
            name: int(module.model.effective[slot].sum()) for slot, name in enumerate(kinds)
        },
        "versions": {p: version(p) for p in ("torch", "transformers", "pytorch-lightning")},
        "python": platform.python_version(),
        "duration_seconds": round(time.monotonic() - started, 1),
    }
    for name, spec in specs.items():
        for asset, file in spec.assets.items():
            write_atomic(folder / file, assets[name][asset])
    state = {key: value.contiguous() for key, value in module.model.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    write_atomic(folder / RUN, json.dumps(document, indent=2) + "\n")


def load_run(folder: Path) -> Run:
    """Reads a finished run back.

    Raises:
        UsageError: the folder holds none.
    """
    try:
        document = json.loads((folder / RUN).read_text())
        recipe = Recipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text()))
    except OSError as error:
        raise UsageError(
            f"{folder} holds no finished run ({error}); make one with `dimml train RECIPE`"
        ) from error
    specs = {n: ModalitySpec.model_validate(s) for n, s in document["modalities"].items()}
    assets = {
        name: {asset: (folder / file).read_bytes() for asset, file in spec.assets.items()}
        for name, spec in specs.items()
    }
    kinds = {name: build_kind(name, spec, assets[name], None) for name, spec in specs.items()}
    model = _model(recipe, kinds, len(document["labels"]))
    model.load_state_dict(load_file(folder / WEIGHTS))
    fitted = Conformal.model_validate(document["conformal"])
    labels = tuple(document["labels"])
    return Run(recipe, labels, specs, assets, kinds, model.eval(), fitted, document)


def _claim(folder: Path, resume: bool) -> None:
    if (folder / RUN).exists():
        raise UsageError(f"{folder} holds a finished run: remove it or choose another with --out")
    if resume and not (folder / LAST).exists():
        raise UsageError(f"{folder} holds nothing to resume; leave --resume out")
    if not resume and (folder / LAST).exists():
        raise UsageError(f"{folder} holds a stopped run: add --resume, or remove it")
    folder.mkdir(parents=True, exist_ok=True)


def _specifications(
    recipe: Recipe, texts: Mapping[str, list[str]]
) -> tuple[dict[str, ModalitySpec], dict[str, dict[str, bytes]]]:
    from dimml.modalities import KINDS

    specs, assets = {}, {}
    for name, config in recipe.modalities.items():
        cls = KINDS[config.kind]
        assets[name] = {}
        if config.kind == "text":
            given = config.tokenizer
            content = (
                given.read_bytes() if given else train_tokenizer(texts[name], config.vocab_size)
            )
            assets[name] = {"tokenizer.json": content}
        specs[name] = ModalitySpec(
            kind=config.kind,
            graph=f"{name}.onnx",
            inputs=cls.input_names,
            preprocessing=cls.Config.model_validate(config.preprocessing).model_dump(mode="json"),
            encoder=config.encoder.preset,
            assets={asset: f"{name}.{asset}" for asset in assets[name]},
        )
    return specs, assets


def _model(recipe: Recipe, kinds: Mapping[str, Kind], classes: int) -> DetachedModel:
    encoders = [
        build_encoder(kind, recipe.feature_dim, **recipe.modalities[name].encoder.model_dump())
        for name, kind in kinds.items()
    ]
    return DetachedModel(list(kinds), encoders, recipe.feature_dim, classes)


def _fit(module: DetachedModule, data: RunData, folder: Path, resume: bool) -> dict[str, Any]:
    """Trains, leaves the best epoch's weights in the module, and says which epoch that was."""
    torch.set_num_threads(available_cores())
    best = ModelCheckpoint(
        folder,
        "best",
        monitor=BEST,
        mode="max",
        save_weights_only=True,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=module.recipe.training.epochs,
        callbacks=[best, last],
        logger=[
            CSVLogger(folder, name="", version="csv"),
            TensorBoardLogger(folder, name="", version="tensorboard"),
        ],
        num_sanity_val_steps=0,
        log_every_n_steps=10_000,
        enable_model_summary=False,
    )
    trainer.fit(
        module, datamodule=data, ckpt_path=folder / LAST if resume else None, weights_only=True
    )
    if trainer.interrupted:
        raise InterruptedRunError(f"stopped; go on with --resume (the run is in {folder})")
    checkpoint = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
    module.load_state_dict(checkpoint["state_dict"])
    score = float(best.best_model_score or 0.0)
    say(f"best epoch: {checkpoint['epoch']} with {BEST} {score:.4f}")
    return {"epoch": checkpoint["epoch"], BEST: score}


@torch.no_grad()
def _calibrate(module: DetachedModule, data: RunData, recipe: Recipe) -> Conformal:
    model = module.model.cpu().eval()
    parts = [(model(b.inputs, b.present), b.present, b.labels) for b in data.val_dataloader()]
    features, present, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    held = conformal_rows(len(labels))
    logits = model.fusion.shared_classifier(features[~held])
    calibrate(model.fusion, model.modalities, logits, present[~held], labels[~held])
    return conformal(
        model.fusion, model.modalities, features[held], present[held], labels[held], recipe.coverage
    )
