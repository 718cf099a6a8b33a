from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from dimml.errors import InterruptedRunError
from train.recipe import Recipe, load_recipe
from train.run import train_run

SETTINGS = ["training.epochs=12", "training.warm_up=1", "training.patience=2"]


@pytest.fixture
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(recipe_file, SETTINGS)


@pytest.fixture(scope="module")
def whole(recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without an interruption, and return the folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_run(load_recipe(recipe_file, SETTINGS), folder, resume=False)
    return folder


def accuracies(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["val_accuracy"]) for row in csv.DictReader(file)]


def test_training_stops_after_epochs_without_a_better_accuracy(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(recipe, tmp_path / "run", resume=False)
    values = accuracies(tmp_path / "run")
    assert len(values) < 12
    assert max(values[:-2]) == values[-3] >= max(values[-2:])
    assert "training stops: 2 epochs without a better val_accuracy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "interrupted",
    # At the start of the last epoch, and when all epochs are over but the run is not.
    ["train.callbacks.History.on_train_epoch_start", "train.trainer.load_checkpoint"],
)
def test_interruption_does_not_change_where_training_stops(
    recipe: Recipe, whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, interrupted: str
) -> None:
    folder, last = tmp_path / "stopped", len(accuracies(whole)) - 1

    def interrupt(*arguments: Any) -> None:
        trainer = next((each for each in arguments if isinstance(each, Trainer)), None)
        if trainer is None or trainer.current_epoch == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(interrupted, interrupt)
        with pytest.raises(InterruptedRunError):
            train_run(recipe, folder, resume=False)
    train_run(recipe, folder, resume=True)
    assert accuracies(folder) == accuracies(whole)
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()


def test_training_without_patience_runs_all_epochs(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["training.epochs=4", "training.warm_up=1"])
    train_run(recipe, tmp_path / "run", resume=False)
    assert len(accuracies(tmp_path / "run")) == 4
