"""A training run: a folder that holds all of it, from recipe to calibrated checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from dimml.bundle import Conformal, ModalitySpec, build_kind
from dimml.errors import InterruptedRunError, UsageError
from dimml.files import locked_folder, write_atomic
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.modalities import Kind
from dimml.nn.encoders import backbone_config
from dimml.nn.model import MultimodalModel
from train.calibration import conformal, conformal_rows
from train.data.prepare import build, prepare
from train.data.splits import fingerprint
from train.methods import method_class
from train.methods.base import Method
from train.module import encode
from train.readout import Readout
from train.recipe import Recipe, load_recipe, written
from train.trainer import LAST, TrainedModel, check_machine, is_first_process, train_model

RECIPE = "recipe.yaml"
DATA = "data.json"
"""The path and the sha256 of the table, and of the samples, written when training starts."""
RUN = "run.json"
WEIGHTS = "model.safetensors"
CACHE = "cache"
"""Beside the run's folder: the decoded data, shared by the runs there."""
_METHOD = "method."
"""What the names of a method's own weights begin with."""


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder."""

    recipe: Recipe
    labels: tuple[str, ...]
    specs: Mapping[str, ModalitySpec]
    assets: Mapping[str, Mapping[str, bytes]]
    kinds: Mapping[str, Kind]
    model: MultimodalModel
    method: Method
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
    if not is_first_process():
        # Another device of a run, whose first process started this one and has the folder.
        _train(recipe, folder, resume)
        raise SystemExit(0)
    with locked_folder(folder, "training into", "another with --out"), stoppable(folder):
        _train(recipe, folder, resume)


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Takes SIGTERM for Ctrl-C, and says of a stopped run how it goes on.

    Raises:
        InterruptedRunError: stopped, with an epoch to go on from.
        KeyboardInterrupt: stopped before that.
    """
    with sigterm_as_ctrl_c():
        try:
            yield
        except KeyboardInterrupt:
            if not (folder / LAST).exists():
                raise
            raise InterruptedRunError(
                f"stopped; the same command with --resume goes on (the run is in {folder})"
            ) from None


def check_folder(folder: Path, recipe: str, sha256: str, resume: bool) -> None:
    """Refuses a folder that is not ready for a run, or not for going on with one.

    Args:
        folder: the run's.
        recipe: the content of `recipe.yaml`.
        sha256: of the table.
        resume: whether to go on with a stopped run.

    Raises:
        UsageError: it holds a run and `resume` was not asked for, or the other way round; or the
            run in it was started with other settings or on other data.
    """
    if (folder / RUN).exists():
        raise UsageError(f"{folder} holds a finished run: remove it or choose another with --out")
    if not resume and (folder / LAST).exists():
        raise UsageError(f"{folder} holds a stopped run: add --resume, or remove it")
    if not resume:
        return
    if not (folder / LAST).exists():
        raise UsageError(f"{folder} holds nothing to resume; leave --resume out")
    if (folder / RECIPE).read_text() != recipe:
        raise UsageError(
            f"the run in {folder} was started with other settings (its {RECIPE} holds them): "
            "resume with those, or choose another folder with --out"
        )
    if json.loads((folder / DATA).read_text())["sha256"] != sha256:
        raise UsageError(
            f"the data changed since the run in {folder} was started (its {DATA} names the table): "
            "resume with what it was, or choose another folder with --out"
        )


def check_samples(folder: Path, samples: Mapping[str, str]) -> None:
    """Refuses to go on with other samples than a run was started with, see `Split.fingerprint`.

    Raises:
        UsageError: a file changed under the same table.
    """
    before = json.loads((folder / DATA).read_text()).get("samples", samples)
    if changed := [name for name, found in samples.items() if before.get(name) != found]:
        raise UsageError(
            f"files of the {' and '.join(changed)} split changed since the run in {folder} was "
            "started: resume with what they were, or choose another folder with --out"
        )


def _train(recipe: Recipe, folder: Path, resume: bool) -> None:
    started = time.monotonic()
    table = {"path": str(recipe.data.absolute()), "sha256": fingerprint(recipe.data)}
    if is_first_process():
        check_folder(folder, _dump(recipe), table["sha256"], resume)
    check_machine(recipe.training, method_class(recipe.method))
    prepared = prepare(recipe, folder.parent / CACHE)
    specs, kinds = prepared.specs, prepared.kinds
    samples = {name: split.fingerprint for name, split in prepared.splits.items()}
    if resume and is_first_process():
        check_samples(folder, samples)
    documents = {
        RECIPE: _dump(recipe),
        DATA: json.dumps({**table, "samples": samples}) + "\n",
    }
    training = train_model(recipe, prepared, folder, resume, documents)
    if not is_first_process():
        return
    model, method = training.model, training.method
    document = {
        "name": recipe.name,
        "seed": recipe.seed,
        "labels": prepared.labels,
        "modalities": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        "data": table,
        "best": training.best,
        "backbones": _backbones(recipe, model),
        "conformal": _calibrate(training, recipe.coverage).model_dump(mode="json"),
        "effective_dimensions": dict(zip(kinds, model.effective.sum(dim=1).tolist(), strict=True)),
        "versions": {p: version(p) for p in ("torch", "transformers", "pytorch-lightning")},
        "python": platform.python_version(),
        "duration_seconds": round(time.monotonic() - started, 1),
    }
    for name, spec in specs.items():
        for asset, file in spec.assets.items():
            write_atomic(folder / file, prepared.assets[name][asset])
    own = {f"{_METHOD}{key}": value for key, value in method.state_dict().items()}
    state = {key: value.contiguous() for key, value in {**model.state_dict(), **own}.items()}
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
    model, method = build(recipe, kinds, len(document["labels"]), document["backbones"])
    state = load_file(folder / WEIGHTS)
    own = {key: state.pop(key) for key in list(state) if key.startswith(_METHOD)}
    # Runs of before there were biases.
    state.setdefault("fusion.modality_bias", torch.zeros(len(kinds)))
    model.load_state_dict(state)
    method.load_state_dict({key.removeprefix(_METHOD): value for key, value in own.items()})
    fitted = Conformal.model_validate(document["conformal"])
    labels = tuple(document["labels"])
    return Run(recipe, labels, specs, assets, kinds, model.eval(), method, fitted, document)


def _dump(recipe: Recipe) -> str:
    document = written(recipe)
    if not recipe.options:
        del document["options"]
    return yaml.safe_dump(document, sort_keys=False)


def _backbones(recipe: Recipe, model: MultimodalModel) -> dict[str, Any]:
    """Configurations of the pretrained backbones, so that a run stands without their source."""
    return {
        name: backbone_config(encoder)
        for (name, modality), encoder in zip(recipe.modalities.items(), model.encoders, strict=True)
        if modality.encoder.preset == "pretrained"
    }


def _calibrate(training: TrainedModel, coverage: float) -> Conformal:
    model = training.model
    validation = encode(model, training.data.val_dataloader())
    return calibrated(training.method.readout(model), model, validation, coverage)


def calibrated(
    readout: Readout,
    model: MultimodalModel,
    validation: tuple[Tensor, Tensor, Tensor],
    coverage: float,
) -> Conformal:
    """Calibrates on one part of the validation split, and fits the thresholds on the other.

    Args:
        readout: calibrated in place.
        model: for the modalities' names.
        validation: features, present and labels, see `encode`.
        coverage: of the prediction sets.
    """
    features, present, labels = validation
    held = conformal_rows(len(labels))
    readout.calibrate(model.modalities, features[~held], present[~held], labels[~held])
    return conformal(
        readout, model.modalities, features[held], present[held], labels[held], coverage
    )
