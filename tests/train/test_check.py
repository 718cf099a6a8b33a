"""`dimml check`: the report on the data of a recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

from dimml.errors import ManifestError, RecipeError
from tests.conftest import Dimml
from train.check import check_data
from train.data.splits import read_training_splits
from train.data_report import DataReport
from train.recipe import load_recipe
from train.run import train_run

RECIPE = """
name: things
data: {data}
modalities:
  photo: {{kind: image, preprocessing: {{size: [16, 16]}}}}
  note: {{kind: text, preprocessing: {{max_length: 16}}}}
"""
SPLITS = ("train", "train", "train", "validation", "test")


class Things:
    """A table of red and blue things with a photo and a note, and its recipe."""

    def __init__(self, folder: Path, count: int = 60) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
            label = ("red", "blue")[number // 5 % 2]
            split = SPLITS[number % 5]
            cells = {"photo": f"{number}.png", "note": f"a {label} thing, number {number}"}
            self.rows.append({"id": f"r{number}", "split": split, "label": label, **cells})

    def rows_of(self, split: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["split"] == split]

    def write(self) -> Path:
        """Write the table and the recipe, and return the recipe."""
        table = self.folder / "things.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        path = self.folder / "recipe.yaml"
        path.write_text(RECIPE.format(data=table))
        return path

    def check(self) -> DataReport:
        return check_data(load_recipe(self.write()))


@pytest.fixture
def things(tmp_path: Path) -> Things:
    return Things(tmp_path)


def matching(lines: Sequence[str], words: str) -> str:
    """Return the only line that contains the words."""
    [line] = [line for line in lines if words in line]
    return line


def test_clean_data_have_no_problems(tmp_path: Path, dimml: Dimml) -> None:
    code, out, _ = dimml("check", Things(tmp_path, 200).write())
    assert code == 0
    assert out.endswith("no problems\n")
    assert "| rows | 120 | 40 | 40 |\n| red | 60 | 20 | 20 |" in out
    assert "| photo | train | 120 | 0 | 0 |" in out


def test_unreadable_cells_are_grouped_by_reason(things: Things) -> None:
    train = things.rows_of("train")
    train[0]["photo"], train[1]["photo"] = "nowhere.png", "elsewhere.png"
    (things.folder / train[2]["photo"]).write_bytes(b"text")
    train[3]["photo"] = None
    things.rows_of("test")[0]["photo"] = "gone.png"
    report = things.check()
    groups = {
        (group["split"], group["reason"].split(";")[0]): group
        for group in report.unreadable.document()
    }
    assert {key: group["count"] for key, group in groups.items()} == {
        ("train", "no such file: …"): 2,
        ("train", "not an image file"): 1,
        ("test", "no such file: …"): 1,
    }
    example = groups["train", "no such file: …"]["example"]
    assert example == {"id": "r0", "message": f"no such file: {things.folder}/nowhere.png"}
    cells = report.document()["cells"]["photo"]["train"]
    assert cells == {"present": 32, "missing": 1, "unreadable": 3}
    line = matching(report.warnings(), "nowhere")
    assert line.startswith("photo, train: 2 cells unreadable, such as row r0: no such file")
    assert report.failure is None


def test_blank_pictures_and_cut_texts_are_counted(things: Things) -> None:
    for row in things.rows_of("validation")[:2]:
        PIL.Image.new("RGB", (16, 16), "white").save(things.folder / row["photo"])
    things.rows_of("train")[0]["note"] = "word " * 50
    warnings = things.check().warnings()
    assert "2 cells with a warning" in matching(warnings, "the image is blank")
    assert matching(warnings, "only the first 16 were used").startswith("note, train: 1 cell")


def test_silent_recordings_are_counted(calls_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "calls"
    shutil.copytree(calls_recipe.parent, folder)
    soundfile.write(folder / "0.wav", np.zeros(4000), 8000)
    report = check_data(load_recipe(calls_recipe, [f"data={folder / 'data.csv'}"]))
    line = matching(report.warnings(), "the recording is silent")
    assert line.startswith("call, train: 1 cell with a warning, such as row 0")


def test_files_of_the_train_split_in_other_splits_are_a_warning(things: Things) -> None:
    train = things.rows_of("train")
    shutil.copy(things.folder / train[0]["photo"], things.folder / "copy.png")
    things.rows_of("test")[1]["photo"] = "copy.png"
    things.rows_of("test")[2]["note"] = train[1]["note"]
    report = things.check()
    line = matching(report.warnings(), "also in the train split")
    assert line.startswith("photo, test: the content of 1 cell is")
    assert line.endswith("such as row r9; the split measures too high")
    assert matching(report.information(), "also in the train split").startswith("note, test")


def test_file_before_its_copy_in_the_train_split_is_found(things: Things) -> None:
    things.rows_of("validation")[0]["photo"] = things.rows_of("train")[-1]["photo"]
    assert [d.split for d in things.check().duplicates] == ["validation"]


def test_small_and_lost_classes_are_named(things: Things) -> None:
    for row in things.rows_of("train")[:2]:
        row["label"] = "green"
    warnings = things.check().warnings()
    assert "classes of fewer than 10 train rows: green (2)" in warnings
    assert "classes without a row in the validation split: green" in warnings


def test_imbalance_names_the_setting(things: Things) -> None:
    for row in things.rows_of("train")[:35]:
        row["label"] = "red"
    things.rows_of("train")[35]["label"] = "blue"
    line = matching(things.check().warnings(), "35 times the train rows")
    assert "training.class_weights: balanced" in line


def test_labels_that_look_alike_are_named(things: Things) -> None:
    for number, row in enumerate(things.rows_of("train")):
        row["label"] = (row["label"], "Red")[number % 9 == 0]
    line = matching(things.check().warnings(), "differ only by case or blanks")
    assert line.endswith(": Red, red")


def test_rows_that_take_no_part_are_counted(things: Things) -> None:
    train = things.rows_of("train")
    train[0]["label"] = None
    train[1].update(photo=None, note=" ")
    things.rows_of("test")[0]["split"] = "later"
    information = things.check().information()
    assert "train: 1 row without a label or any cell, not used" in information
    assert "train: 1 row without a label, used for what modalities share" in information
    assert "rows of other splits are not used: later (1)" in information


def spoil_validation_label(things: Things) -> None:
    things.rows_of("validation")[0]["label"] = "pink"


def spoil_test_label(things: Things) -> None:
    things.rows_of("test")[0]["label"] = "pink"


def spoil_labels(things: Things) -> None:
    for row in things.rows:
        row["label"] = "red"


def spoil_validation_split(things: Things) -> None:
    for row in things.rows_of("validation"):
        row["split"] = "eval"


def spoil_photos(things: Things) -> None:
    for row in things.rows_of("train")[1:]:
        (things.folder / row["photo"]).write_bytes(b"")


def spoil_a_class(things: Things) -> None:
    for row in things.rows_of("train"):
        if row["label"] == "blue":
            row.update(photo="gone.png", note=None)


def spoil_every_cell_of_validation(things: Things) -> None:
    for row in things.rows_of("validation"):
        row.update(photo="gone.png", note=None)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_validation_label,
        spoil_test_label,
        spoil_labels,
        spoil_validation_split,
        spoil_photos,
        spoil_a_class,
        spoil_every_cell_of_validation,
    ],
)
def test_check_ends_with_the_error_of_training(
    things: Things, dimml: Dimml, spoil: Callable[[Things], None]
) -> None:
    spoil(things)
    path = things.write()
    with pytest.raises(ManifestError) as failed:
        train_run(load_recipe(path), things.folder / "run", resume=False)
    code, out, err = dimml("check", path)
    assert code == 2
    assert err.endswith(f"Error: {failed.value}\n")
    assert "| photo | train |" in out
    assert "no problems" not in out


def test_column_that_is_missing_ends_with_the_error_of_training(things: Things) -> None:
    for row in things.rows:
        row["picture"] = row.pop("photo")
    recipe = load_recipe(things.write())
    with pytest.raises(ManifestError) as failed:
        read_training_splits(recipe.source)
    assert "no column for photo" in str(failed.value)
    failure = check_data(recipe).failure
    assert failure is not None
    assert failure.message == failed.value.message


def test_table_without_any_modality_is_rejected(things: Things) -> None:
    things.rows = [{"split": "train", "label": "a", "words": "x"}]
    with pytest.raises(ManifestError, match="no column for photo, note; its columns are split"):
        things.check()


def test_pretrained_model_sets_the_preprocessing(
    things: Things, pretrained_folder: Callable[[str, str], Path]
) -> None:
    for row in things.rows:
        row["note"] = "one two " * 6
    folder = pretrained_folder("text", "bert")
    note = f"modalities.note={{kind: text, encoder: {folder}}}"
    recipe = load_recipe(things.write(), [note])
    cells = check_data(recipe).document()["cells"]["note"]
    assert cells["train"] == {"present": 36, "missing": 0, "unreadable": 0}


def test_wrong_model_is_rejected(things: Things) -> None:
    path = things.write()
    recipe = load_recipe(path, [f"modalities.photo.encoder={things.folder}/nowhere"])
    with pytest.raises(RecipeError, match="nowhere"):
        check_data(recipe)


def test_json_has_every_count(things: Things, dimml: Dimml) -> None:
    things.rows_of("train")[0]["photo"] = "nowhere.png"
    code, out, _ = dimml("check", things.write(), "--json", "--set", "seed=3")
    document = json.loads(out)
    assert code == 0
    assert document["rows"] == {"train": 36, "validation": 12, "test": 12}
    assert document["labels"]["test"] == {"red": 6, "blue": 6}
    assert document["cells"]["photo"]["train"]["unreadable"] == 1
    assert document["unreadable"][0]["example"]["id"] == "r0"
    assert document["error"] is None
    assert len(document["warnings"]) == 1


def test_ctrl_c_stops_the_check(
    things: Things, dimml: Dimml, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    path = things.write()
    monkeypatch.setattr("train.check._read_row", interrupted)
    code, out, err = dimml("check", path)
    assert (code, out) == (130, "")
    assert err.endswith("Stopped.\n")
