"""A run's folder: what is refused, what a refusal leaves, and what a stop does."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from dimml.errors import InterruptedRunError, ManifestError, UsageError
from dimml.files import locked_folder
from train.recipe import Recipe
from train.run import train_run

HEADER = "id,split,label,title,note\n"
ROWS = "".join(
    f"{number},{('train', 'validation')[number % 3 // 2]},{label},{label} thing,it is {label}\n"
    for number in range(24)
    for label in [("red", "blue")[number % 2]]
)
TRAINING = {"epochs": 2, "warm_up": 1, "batch_size": 8}


def recipe_of(data: Path, **changes: object) -> Recipe:
    document = {
        "name": "things",
        "data": data,
        "feature_dim": 8,
        "modalities": {"title": "text", "note": "text"},
        "training": TRAINING,
    }
    return Recipe.model_validate({**document, **changes})


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a run, stopped by SIGTERM while calibrating and then moved."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "data.csv").write_text(HEADER + ROWS)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("train.run._calibrate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match="run the same command with --resume"):
            train_run(recipe_of(Path("data.csv")), Path("moved"), resume=False)
        Path("moved").rename("run")
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for each test, which is the current folder."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestRefusals:
    def test_a_folder_that_another_process_trains_into(self, folder: Path) -> None:
        with (
            locked_folder(folder / "run", "training into", "another"),
            pytest.raises(UsageError, match="another process is training into"),
        ):
            train_run(recipe_of(Path("data.csv")), folder / "run", resume=False)
        assert (folder / "run" / "last.ckpt").exists()

    @pytest.mark.parametrize("out", ["data.csv", "data.csv/run"])
    def test_a_file_for_a_folder(self, folder: Path, out: str) -> None:
        with pytest.raises(UsageError, match=r"data\.csv is a file, where a folder is needed"):
            train_run(recipe_of(Path("data.csv")), folder / out, resume=False)

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (HEADER.replace("note", "not") + ROWS, "no column for note"),
            (HEADER + ROWS.replace("it is", "x").replace("thing", ","), "cannot be read"),
            (HEADER.replace("note", "image") + ROWS, "no row of the train split can be read"),
        ],
    )
    def test_leave_no_folder(self, tmp_path: Path, content: str, said: str) -> None:
        (tmp_path / "data.csv").write_text(content)
        modalities = {"image": "image"} if "image" in content else {"title": "text", "note": "text"}
        recipe = recipe_of(tmp_path / "data.csv", modalities=modalities)
        with pytest.raises(ManifestError, match=said):
            train_run(recipe, tmp_path / "runs" / "things" / "run", resume=False)
        assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]

    def test_leave_a_folder_as_it_was(self, tmp_path: Path) -> None:
        (tmp_path / "data.csv").write_text(HEADER)
        (run := tmp_path / "run").mkdir()
        with pytest.raises(ManifestError):
            train_run(recipe_of(tmp_path / "data.csv"), run, resume=False)
        assert list(run.iterdir()) == []

    @pytest.mark.parametrize(
        ("file", "said"),
        [
            ("nope.json", r"modalities\.note\.tokenizer: cannot read nope\.json \(No such file"),
            ("empty.json", r"note: tokenizer\.json cannot be read"),
        ],
    )
    def test_a_tokenizer_that_cannot_be_read(self, folder: Path, file: str, said: str) -> None:
        (folder / "empty.json").touch()
        modalities = {"title": "text", "note": {"kind": "text", "tokenizer": file}}
        with pytest.raises(UsageError, match=said):
            train_run(recipe_of(Path("data.csv"), modalities=modalities), folder / "new", False)
        assert not (folder / "new").exists()

    def test_a_table_that_is_not_there_says_where_it_was_looked_for(self, folder: Path) -> None:
        with pytest.raises(ManifestError) as raised:
            train_run(recipe_of(Path("products.csv")), folder / "new", resume=False)
        assert "products.csv (No such file or directory)" in raised.value.message
        assert f"starts at the current folder, {folder}" in raised.value.message


class TestResume:
    @pytest.mark.parametrize(("old", "new"), [("it is red", "it was red"), (",red,", ",pink,")])
    def test_is_refused_where_the_data_changed(self, folder: Path, old: str, new: str) -> None:
        (folder / "data.csv").write_text(HEADER + ROWS.replace(old, new))
        with pytest.raises(UsageError, match="the data changed since the run in run was started"):
            train_run(recipe_of(Path("data.csv")), Path("run"), resume=True)
        assert not (folder / "run" / "run.json").exists()

    def test_goes_on_with_the_best_epoch_where_folder_and_data_were_moved(
        self, folder: Path
    ) -> None:
        train_run(recipe_of(Path("data.csv")), folder / "run", resume=True)
        with (folder / "run" / "metrics.csv").open() as file:
            scores = [float(row["val_accuracy"]) for row in csv.DictReader(file)]
        assert len(scores) == 2
        assert json.loads((folder / "run" / "run.json").read_text())["best"] == {
            "epoch": scores.index(max(scores)),
            "val_accuracy": pytest.approx(max(scores)),
        }


class TestStop:
    def test_before_there_is_anything_to_resume_is_ctrl_c_itself(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "train.data.cache._write", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        )
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe_of(Path("data.csv")), folder / "new" / "run", resume=False)
        assert not (folder / "new").exists()
        assert signal.getsignal(signal.SIGTERM) == before
