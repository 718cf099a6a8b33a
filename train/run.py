"""A training run: a folder that holds everything from the recipe to the calibrated weights."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from dimml.bundle import Conformal
from dimml.errors import InterruptedRunError, UsageError
from dimml.files import locked_folder, write_atomic
from dimml.interrupt import sigterm_as_ctrl_c
from dimml.modalities import Kind
from dimml.modality_specs import ModalitySpec, build_kinds
from dimml.nn.model import MultimodalModel
from dimml.progress import print_status
from dimml.table.find import find_tables
from train.calibration import EncodedRows
from train.choice import FusionChoice
from train.conformal import conformal, conformal_rows, uncertified_text
from train.data.prepare import prepare
from train.data.splits import tables_sha256
from train.encoders import build_model, encoder_documents, join_frozen, run_encoders
from train.loggers import check_logger
from train.methods import method_class
from train.methods.base import Method
from train.module import encode
from train.readout import Readout
from train.recipe import Recipe, load_recipe
from train.trainer import LAST, TrainedModel, check_machine, is_first_process, train_model

RECIPE = "recipe.yaml"
DATA = "data.json"
"""The file with the path and sha256 of the table, and the sha256 of the samples of each split."""
RUN = "run.json"
WEIGHTS = "model.safetensors"
CACHE = "cache"
"""The folder of the decoded data, beside the folder of the run; the runs there share it."""
_METHOD = "method."
"""The prefix of the names of a method's own weights."""


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
    """Train a recipe into a folder.

    Raises:
        UsageError: If the recipe, its data or the folder cannot be used, or another process trains
            into the folder.
        InterruptedRunError: If Ctrl-C or SIGTERM stops the run; `resume` continues from the last
            whole epoch.
        KeyboardInterrupt: If the run is stopped before the end of the first epoch.
    """
    if not is_first_process():
        # The first process of the run started this one for another device, and locks the folder.
        _train(recipe, folder, resume)
        raise SystemExit(0)
    with locked_folder(folder, "training into", "another with --out"), stoppable(folder):
        _train(recipe, folder, resume)


@contextmanager
def stoppable(folder: Path) -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, and tell the user of a stopped run how to resume it.

    Raises:
        InterruptedRunError: If the run is stopped after an epoch ended.
        KeyboardInterrupt: If the run is stopped before that.
    """
    with sigterm_as_ctrl_c():
        try:
            yield
        except KeyboardInterrupt:
            if not (folder / LAST).exists():
                raise
            raise InterruptedRunError(
                f"stopped; run the same command with --resume to continue (the run is in {folder})"
            ) from None


def check_folder(folder: Path, recipe: str, sha256: str, resume: bool) -> None:
    """Reject a folder that cannot take a new run, or whose run cannot be resumed.

    Args:
        folder: The folder of the run.
        recipe: The content of `recipe.yaml`.
        sha256: The sha256 of the table.
        resume: Whether a stopped run is resumed.

    Raises:
        UsageError: If the folder holds a finished run; or a stopped run without `resume`; or no
            run, or one with other settings or data, with `resume`.
    """
    if (folder / RUN).exists():
        raise UsageError(f"{folder} holds a finished run: remove it or choose another with --out")
    if not resume:
        if (folder / LAST).exists():
            raise UsageError(f"{folder} holds a stopped run: add --resume, or remove it")
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
            "restore the table, or choose another folder with --out"
        )


def check_samples(folder: Path, samples: Mapping[str, str]) -> None:
    """Reject samples that differ from those with which the run was started.

    The samples can change although the table is the same, because the table names files.

    Args:
        folder: The folder of the run.
        samples: The sha256 of each split.

    Raises:
        UsageError: If a file of a split changed.
    """
    before = json.loads((folder / DATA).read_text())["samples"]
    if changed := [name for name, sha256 in samples.items() if before.get(name) != sha256]:
        raise UsageError(
            f"files of the {' and '.join(changed)} split, or the weights of a frozen model, "
            f"changed since the run in {folder} was started: restore them, or choose another "
            "folder with --out"
        )


def _train(recipe: Recipe, folder: Path, resume: bool) -> None:
    started = time.monotonic()
    path = recipe.data.table
    table = {"path": str(path.absolute()), "sha256": tables_sha256(path)}
    recipe_yaml = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    if is_first_process():
        check_folder(folder, recipe_yaml, table["sha256"], resume)
    check_machine(recipe.training, method_class(recipe.method))
    check_logger(recipe.training.logger)
    prepared = prepare(recipe, folder.parent / CACHE)
    specs, kinds = prepared.specs, prepared.kinds
    samples = {name: split.sha256 for name, split in prepared.splits.items()}
    if resume and is_first_process():
        check_samples(folder, samples)
    data = json.dumps({**table, "samples": samples}) + "\n"
    trained = train_model(recipe, prepared, folder, resume, {RECIPE: recipe_yaml, DATA: data})
    if not is_first_process():
        return
    model, method = trained.model, trained.method
    readout, limits = _calibrate(trained, recipe.coverage)
    choice = readout.choice or FusionChoice("none", None, {})
    print_status(choice.summary())
    model.keep_head(choice.head)
    if text := uncertified_text(limits):
        print_status(f"warning: {text}")
    document = {
        "name": recipe.name,
        "seed": recipe.seed,
        "labels": prepared.labels,
        "modalities": {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        "data": table,
        "best": trained.best,
        "pretrained": encoder_documents(prepared),
        "conformal": limits.model_dump(mode="json"),
        "fusion": choice.document(),
        "served_options": method.served_options(choice),
        "effective_dimensions": dict(zip(kinds, model.effective.sum(dim=1).tolist(), strict=True)),
        "versions": {p: version(p) for p in ("torch", "transformers", "pytorch-lightning")},
        "python": platform.python_version(),
        "duration_seconds": round(time.monotonic() - started, 1),
    }
    join_frozen(model, prepared)
    for name, spec in specs.items():
        for asset, file in spec.assets.items():
            write_atomic(folder / file, prepared.assets[name][asset])
    own = {f"{_METHOD}{key}": value for key, value in method.state_dict().items()}
    state = {key: value.contiguous() for key, value in {**model.state_dict(), **own}.items()}
    save_file(state, folder / WEIGHTS)
    # safetensors writes files that only their owner may read.
    shutil.copymode(folder / RECIPE, folder / WEIGHTS)
    # This file marks the run as finished, so it is written last.
    write_atomic(folder / RUN, json.dumps(document, indent=2) + "\n")


def load_run(folder: Path) -> Run:
    """Read a finished run back.

    The table of its recipe is the path of the table at training time.

    Raises:
        UsageError: If the folder holds no finished run of this version, or the table no longer
            exists.
    """
    try:
        document = json.loads((folder / RUN).read_text())
    except OSError as error:
        raise UsageError(
            f"{folder} holds no finished run ({error}); make one with `dimml train RECIPE`"
        ) from error
    table = Path(document["data"]["path"])
    if not find_tables(table)[0].is_file():
        raise UsageError(
            f"the run in {folder} was trained on {table}, which no longer exists: restore the "
            "table and its files, or train again"
        )
    # A bundle repeats this path. A relative path reveals less about the machine.
    table = table.relative_to(Path.cwd()) if table.is_relative_to(Path.cwd()) else table
    document["data"]["path"] = str(table)
    recipe = load_recipe(folder / RECIPE)
    data = recipe.data.model_copy(update={"table": table})
    recipe = recipe.model_copy(update={"data": data})
    specs = {n: ModalitySpec.model_validate(s) for n, s in document["modalities"].items()}
    assets = {
        name: {asset: (folder / file).read_bytes() for asset, file in spec.assets.items()}
        for name, spec in specs.items()
    }
    kinds = build_kinds(specs, assets, recipe.source.layout)
    encoders = run_encoders(recipe, kinds, document["pretrained"])
    options = {**recipe.options, **document.get("served_options", {})}
    served = recipe.model_copy(update={"options": options})
    model, method = build_model(served, encoders, len(document["labels"]))
    state = load_file(folder / WEIGHTS)
    own = {key: state.pop(key) for key in list(state) if key.startswith(_METHOD)}
    try:
        model.load_state_dict(state)
        method.load_state_dict({key.removeprefix(_METHOD): value for key, value in own.items()})
    except RuntimeError as error:
        raise UsageError(
            f"the weights of the run in {folder} do not fit this version of dimml; train it again"
        ) from error
    limits = Conformal.model_validate(document["conformal"])
    labels = tuple(document["labels"])
    model.eval()
    method.eval()
    return Run(recipe, labels, specs, assets, kinds, model, method, limits, document)


def _calibrate(trained: TrainedModel, coverage: float) -> tuple[Readout, Conformal]:
    model = trained.model
    validation = encode(model, trained.data.val_dataloader())
    readout = trained.method.readout(model)
    return readout, calibrate_readout(readout, model, validation, coverage)


def calibrate_readout(
    readout: Readout, model: MultimodalModel, validation: EncodedRows, coverage: float
) -> Conformal:
    """Calibrate a readout on one part of the validation split, and its limits on the other.

    With thousands of classes, the calibration takes a sample of its part, see `to_fit`.

    Args:
        readout: The readout, which is calibrated in place.
        model: The model of the readout.
        validation: The encoded validation split.
        coverage: The coverage of the prediction sets.
    """
    held_out = conformal_rows(len(validation.labels))
    classes = model.fusion.classifier.out_features
    readout.calibrate(model.modalities, validation.select(~held_out).to_fit(classes))
    reserved = validation.select(held_out)
    return conformal(readout, model.modalities, reserved, coverage, classes)
