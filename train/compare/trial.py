"""One method with one seed: trained, calibrated and measured."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dimml.errors import ManifestError, UsageError
from dimml.machine import describe_machine
from dimml.nn.model import MultimodalModel
from dimml.progress import print_status
from train.calibration import conformal_rows
from train.compare.protocol import (
    coverages,
    cross_validated,
    encode_test,
    held_rows,
    measure_readout,
    read_test,
)
from train.data.prepare import prepare
from train.methods import METHODS
from train.methods.base import Method, Trial
from train.module import BEST, encode
from train.readout import Readout
from train.recipe import Recipe
from train.run import calibrated
from train.trainer import BEST_CHECKPOINT, LAST, History, load_checkpoint, train_model


@dataclass(frozen=True)
class Outcome:
    """Of one training.

    Attributes:
        score: on validation, the mean accuracy over subsets.
        documents: row to result; the run's own and those that come out of the same training.
    """

    score: float
    documents: Mapping[str, dict[str, Any]]


class Laboratory:
    """Runs trainings on data that is decoded once.

    Args:
        recipe: its method, options and seed are replaced in each run.
        work: folder for the checkpoints of the training under way.
        cache: folder of the decoded data.

    Attributes:
        samples: split to the fingerprint of its samples.

    Raises:
        UsageError: the recipe or its data does not do.
    """

    def __init__(self, recipe: Recipe, work: Path, cache: Path) -> None:
        self._recipe = recipe
        self._work = work
        self._prepared = prepare(recipe, cache)
        splits = self._prepared.splits
        rows = len(splits["validation"])
        if (~conformal_rows(rows)).sum() < 2:
            raise ManifestError(
                f"the validation split of {recipe.data} has {rows} readable rows; a comparison "
                "needs three, and some hundred to calibrate well"
            )
        self._test = read_test(recipe, self._prepared, cache)
        self.samples = {
            name: split.fingerprint for name, split in {**splits, "test": self._test.clean}.items()
        }

    def run(
        self, name: str, method: str, options: Mapping[str, Any], trial: Trial, seed: int
    ) -> Outcome:
        """Trains and measures; goes on where a training with the same settings was stopped.

        Args:
            name: of the run.
            method: a key of `METHODS`.
            options: of the method; they come before the trial's.
            trial: hyper-parameters.
            seed: of everything random.
        """
        recipe = self._recipe_of(method, {**trial.options, **options}, trial, seed)
        folder = self._work / f"{name}-{seed}-{_slug(trial)}"
        # A training that was stopped goes on, and its time counts.
        before = _seconds_before(folder)
        started = time.monotonic() - (before or 0.0)
        training = train_model(recipe, self._prepared, folder, resume=before is not None)
        model, built, data = training.model, training.method, training.data
        encoded = encode_test(model, self._test)
        validation = encode(model, data.val_dataloader())
        rows: dict[str, Readout] = {name: built.readout(model)}
        # A variant's would have the names of the method's own.
        if name in METHODS:
            rows |= built.references(model, lambda: encode(model, data.plain_train_dataloader()))
        held = held_rows(model.modalities, validation[1])
        measured = {}
        for row, readout in rows.items():
            found = cross_validated(readout, model.modalities, validation)
            fitted = [calibrated(readout, model, validation, c) for c in coverages(recipe)]
            measured[row] = {
                "validation": found,
                **measure_readout(readout, encoded, fitted, held, seed),
            }
        shared = {
            "seed": seed,
            "rows": list(rows),
            "modalities": list(model.modalities),
            "seconds": round(time.monotonic() - started, 1),
            "epochs": recipe.training.epochs,
            "hyperparameters": _hyperparameters(recipe, built, training.best),
            "machine": {
                **describe_machine(),
                "device": "cuda" if torch.cuda.is_available() else "cpu",
            },
        }
        duc = _selected(model) if built.uses_dimensions else None
        documents = {
            row: {"method": row, **shared, **found, "duc": duc if row == name else None}
            for row, found in measured.items()
        }
        shutil.rmtree(folder, ignore_errors=True)
        return Outcome(training.best[BEST], documents)

    def _recipe_of(
        self, method: str, options: Mapping[str, Any], trial: Trial, seed: int
    ) -> Recipe:
        training = self._recipe.training
        rate = training.learning_rate * trial.learning_rate
        return self._recipe.model_copy(
            update={
                "method": method,
                "options": dict(options),
                "seed": seed,
                # Each training is one process, whose methods are compared.
                "training": training.model_copy(update={"learning_rate": rate, "devices": 1}),
            }
        )


def _seconds_before(folder: Path) -> float | None:
    """How long the epochs took that a stopped training has finished; None if there is none.

    One whose checkpoint is damaged starts again.
    """
    if not (folder / LAST).exists():
        return None
    try:
        load_checkpoint(folder / BEST_CHECKPOINT)
        state = load_checkpoint(folder / LAST)
    except UsageError:
        print_status(f"a checkpoint in {folder} is damaged; this training starts again")
        shutil.rmtree(folder)
        return None
    return float(state["callbacks"][History.__name__]["seconds"])


def _slug(trial: Trial) -> str:
    settings = [f"{key}={value}" for key, value in sorted(trial.options.items())]
    return "-".join([f"{trial.learning_rate:g}", *settings])


def _hyperparameters(recipe: Recipe, method: Method, best: Mapping[str, Any]) -> dict[str, Any]:
    training = recipe.training
    return {
        **method.options.model_dump(mode="json"),
        "learning_rate": training.learning_rate,
        "weight_decay": training.weight_decay,
        "batch_size": training.batch_size,
        "best_epoch": best["epoch"] + 1,
        "validation_accuracy": best[BEST],
    }


def _selected(model: MultimodalModel) -> dict[str, Any]:
    """How many dimensions are effective, and how many of a teacher's the student lacks."""
    names, effective = model.modalities, model.effective
    return {
        "effective": {name: int(effective[slot].sum()) for slot, name in enumerate(names)},
        "selected": {
            f"{teacher}->{student}": int((effective[t] & ~effective[s]).sum())
            for t, teacher in enumerate(names)
            for s, student in enumerate(names)
            if t != s
        },
    }
