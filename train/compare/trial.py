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
from dimml.progress import print_status
from train.callbacks import History
from train.compare.protocol import (
    coverages,
    describe_errors,
    encode_test_split,
    measure_readout,
)
from train.compare.summary import REFERENCE
from train.conformal import conformal_rows
from train.data.corruptions import read_test_split
from train.data.prepare import prepare
from train.methods import METHODS
from train.methods.base import Method, Trial
from train.module import BEST, encode
from train.readout import Readout, cross_validate
from train.recipe import Recipe
from train.run import calibrate_readout
from train.trainer import BEST_CHECKPOINT, LAST, TrainedModel, load_checkpoint, train_model


@dataclass(frozen=True)
class TrialOutcome:
    """What came out of one training.

    Attributes:
        score: The mean accuracy over subsets on validation.
        documents: The result of each row: of the run itself, and of its reference rows.
    """

    score: float
    documents: Mapping[str, dict[str, Any]]


class TrialRunner:
    """Runs trainings on data that is decoded once.

    Args:
        recipe: Its method, options and seed are replaced in each run.
        work: Folder for the checkpoints of the training in progress.
        cache: Folder of the decoded data.

    Attributes:
        samples: Split to the sha256 of its samples.

    Raises:
        UsageError: If the recipe or its data cannot be used.
    """

    def __init__(self, recipe: Recipe, work: Path, cache: Path) -> None:
        self._recipe = recipe
        self._work = work
        self._prepared = prepare(recipe, cache)
        splits = self._prepared.splits
        rows = len(splits["validation"])
        if (~conformal_rows(rows)).sum() < 2:
            raise ManifestError(
                f"the validation split of {recipe.data.table} has {rows} readable rows; a "
                "comparison needs three, and some hundred to calibrate well"
            )
        self._test = read_test_split(recipe, self._prepared, cache)
        every_split = {**splits, "test": self._test.clean}
        self.samples = {name: split.sha256 for name, split in every_split.items()}

    def run(
        self, name: str, method: str, options: Mapping[str, Any], trial: Trial, seed: int
    ) -> TrialOutcome:
        """Train and measure; resume a stopped training with the same settings.

        Args:
            name: The name of the run.
            method: A key of `METHODS`.
            options: Options of the method, which override the trial's.
            trial: Hyper-parameters.
            seed: The seed of everything random.
        """
        recipe = self._recipe_of(method, {**trial.options, **options}, trial, seed)
        settings = [f"{key}={value}" for key, value in sorted(trial.options.items())]
        trial_name = "-".join([f"{trial.learning_rate:g}", *settings])
        folder = self._work / f"{name}-{seed}-{trial_name}"
        # The time before a stop counts.
        seconds_before = _seconds_before_stop(folder)
        started = time.monotonic() - (seconds_before or 0.0)
        trained = train_model(recipe, self._prepared, folder, resume=seconds_before is not None)
        model, built = trained.model, trained.method
        measured = self._measure(name, recipe, trained)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shared = {
            "seed": seed,
            "rows": list(measured),
            "modalities": list(model.modalities),
            "seconds": round(time.monotonic() - started, 1),
            "epochs": recipe.training.epochs,
            "hyperparameters": _hyperparameters(recipe, built, trained.best),
            "machine": {**describe_machine(), "device": device, "torch": torch.__version__},
        }
        documents = {
            row: {
                "method": row,
                **shared,
                **figures,
                "duc": built.dimension_sets(model) if row == name else None,
            }
            for row, figures in measured.items()
        }
        shutil.rmtree(folder, ignore_errors=True)
        return TrialOutcome(trained.best[BEST], documents)

    def _measure(self, name: str, recipe: Recipe, trained: TrainedModel) -> dict[str, Any]:
        """Return the figures of each row that a training gives, the run's own first."""
        model, built, data = trained.model, trained.method, trained.data
        test = encode_test_split(model, self._test)
        validation = encode(model, data.val_dataloader())
        readouts: dict[str, Readout] = {name: built.readout(model)}
        # The reference rows of a variant would have the same names as those of its method.
        if name in METHODS:
            training = lambda: encode(model, data.plain_train_dataloader())  # noqa: E731
            readouts |= built.references(model, training)
        measured = {}
        for row, readout in readouts.items():
            on_validation = cross_validate(readout, model.modalities, validation)
            conformals = [
                calibrate_readout(readout, model, validation, c) for c in coverages(recipe)
            ]
            figures = measure_readout(readout, test, conformals, validation.present, recipe.seed)
            measured[row] = {"validation": on_validation, **figures}
        if name == REFERENCE:
            # One seed's examples are enough to look at, and large.
            examples = recipe.seed == self._recipe.seed
            measured[name]["model"] = describe_errors(readouts[name], test, self._test, examples)
        return measured

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
                # Each training uses one device, so that methods that alternate can be compared.
                "training": training.model_copy(update={"learning_rate": rate, "devices": 1}),
            }
        )


def _seconds_before_stop(folder: Path) -> float | None:
    """Return how long the finished epochs of a stopped training took; None if there are none.

    A training whose checkpoint is damaged starts again.
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
