from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import UsageError
from train.loggers import RUN_ID, open_logger
from train.recipe import Recipe, load_recipe
from train.run import train_run


def with_logger(recipe_file: Path, name: str) -> Recipe:
    settings = ["training.epochs=2", "training.warm_up=1", f"training.logger={name}"]
    return load_recipe(recipe_file, settings)


@pytest.mark.parametrize(
    ("name", "command"),
    [("mlflow", "pip install mlflow-skinny"), ("wandb", "pip install wandb")],
)
def test_logger_whose_package_is_missing_is_rejected_before_training(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    find = importlib.util.find_spec

    def without(module: str, *arguments: Any) -> Any:
        return None if module == name else find(module, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(UsageError, match=f"training.logger={name} needs {name}.*{command}"):
        train_run(with_logger(recipe_file, name), tmp_path / "run", resume=False)
    assert not (tmp_path / "run").exists()


def test_run_without_a_logger_writes_no_events(recipe_file: Path, tmp_path: Path) -> None:
    train_run(with_logger(recipe_file, "none"), tmp_path / "run", resume=False)
    assert (tmp_path / "run" / "metrics.csv").exists()
    assert not list((tmp_path / "run").rglob("events.out*"))


def test_tensorboard_is_the_default_logger(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["training.epochs=1"])
    train_run(recipe, tmp_path / "run", resume=False)
    assert list((tmp_path / "run" / "tensorboard").glob("events.out*"))


def test_mlflow_logs_metrics_and_settings_into_the_folder_of_the_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs `pip install mlflow-skinny`")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    train_run(with_logger(recipe_file, "mlflow"), folder, resume=False)
    client = mlflow.MlflowClient((folder / "mlflow").as_uri())
    run = client.get_run((folder / RUN_ID).read_text())
    assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 2
    assert run.data.params["training/epochs"] == "2"
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["run"]


def test_wandb_logs_offline_into_the_folder_of_the_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="needs `pip install wandb`")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    train_run(with_logger(recipe_file, "wandb"), folder, resume=False)
    (log,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert (folder / RUN_ID).read_text() in log.name
    # The next run of this process must not go into this one.
    assert wandb.run is None


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_resumed_training_continues_the_logged_run(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    recipe, ids = with_logger(recipe_file, name), []
    for resume in (False, True, False):
        with open_logger(recipe, tmp_path, resume):
            ids.append((tmp_path / RUN_ID).read_text())
    assert ids[0] == ids[1] != ids[2]
