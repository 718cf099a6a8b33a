from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimml.errors import UsageError
from train.recipe import load_recipe
from train.run import train_run

EPOCHS = 16


@pytest.mark.slow("trains three runs in processes; test_optimizer.py resumes in this one")
def test_run_stopped_twice_equals_an_uninterrupted_run(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, [f"training.epochs={EPOCHS}"])
    train_run(recipe, tmp_path / "whole", resume=False)
    run = tmp_path / "run"
    stop_training(recipe_file, run, signal.SIGINT)
    stop_training(recipe_file, run, signal.SIGTERM, "--resume")
    train_run(recipe, run, resume=True)
    for name in ("metrics.csv", "model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def stop_training(recipe: Path, run: Path, stop: signal.Signals, *options: str) -> None:
    """Send a signal to the command after two epochs, and check how it ends."""
    epochs = finished_epochs(run)
    command = [sys.executable, "-m", "dimml", "train", str(recipe), "--out", str(run)]
    process = subprocess.Popen(
        [*command, "--set", f"training.epochs={EPOCHS}", *options],
        stderr=subprocess.PIPE,
        text=True,
        # The children of a background job of a script inherit that the job ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while finished_epochs(run) < epochs + 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(stop)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "--resume" in stderr
    assert "Traceback" not in stderr


def finished_epochs(run: Path) -> int:
    path = run / "metrics.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def test_resume_with_other_settings_is_rejected(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["training.epochs=1"])
    train_run(recipe, tmp_path / "run", resume=False)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(UsageError, match="other settings"):
        train_run(load_recipe(recipe_file), tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="add --resume"):
        train_run(recipe, tmp_path / "run", resume=False)


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_error_names_a_damaged_checkpoint(recipe_file: Path, tmp_path: Path, name: str) -> None:
    recipe, run = load_recipe(recipe_file, ["training.epochs=1"]), tmp_path / "run"
    train_run(recipe, run, resume=False)
    (run / "run.json").unlink()
    (run / name).write_bytes((run / name).read_bytes()[:500])
    with pytest.raises(UsageError, match=rf"{name} is missing or damaged"):
        train_run(recipe, run, resume=True)
    (run / "last.ckpt").touch()
    (run / name).unlink()
    with pytest.raises(UsageError, match=r"is missing or damaged|nothing to resume"):
        train_run(recipe, run, resume=True)


def test_resume_after_a_file_of_the_data_changed_is_rejected(
    recipe_file: Path, tmp_path: Path
) -> None:
    shutil.copytree(recipe_file.parent, tmp_path / "data")
    recipe = load_recipe(recipe_file, [f"data={tmp_path / 'data' / 'data.csv'}"])
    recipe = recipe.model_copy(
        update={"training": recipe.training.model_copy(update={"epochs": 1})}
    )
    train_run(recipe, tmp_path / "run", resume=False)
    (tmp_path / "run" / "run.json").unlink()
    shutil.copy(tmp_path / "data" / "front1.png", tmp_path / "data" / "front4.png")
    with pytest.raises(
        UsageError, match="files of the train split, or the weights of a frozen model, changed"
    ):
        train_run(recipe, tmp_path / "run", resume=True)


def test_resume_of_an_empty_folder_is_rejected(recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to resume"):
        train_run(load_recipe(recipe_file), tmp_path / "run", resume=True)
