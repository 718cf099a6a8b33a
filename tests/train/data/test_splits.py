"""Tables that training and evaluation accept or reject, and the rows of an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from dimml.errors import ManifestError
from dimml.table import TableSource
from train.data.prepare import specifications
from train.data.splits import read_split, read_training_splits, training_rows
from train.recipe import Recipe

CELLS = [("train", "a"), ("train", "b"), ("train", "a"), ("train", "b"), ("validation", "a")]
KINDS = {"photo": "image", "title": "text"}
GOOD = (
    "id,split,label,photo,title\n"
    "1,train,shoe,a.png,one\n"
    "2,train,hat,b.png,two\n"
    "3,validation,hat,,two\n"
)


def rejection(folder: Path, content: str) -> str:
    (folder / "table.csv").write_text(content)
    with pytest.raises(ManifestError) as raised:
        read_training_splits(TableSource(folder / "table.csv", KINDS))
    return raised.value.message


def test_smallest_table_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(GOOD)
    rows = read_training_splits(TableSource(tmp_path / "table.csv", KINDS))
    assert {split: [row.id for row in split_rows] for split, split_rows in rows.items()} == {
        "train": ["1", "2"],
        "validation": ["3"],
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",photo,", ",phot,", "no column for photo (did you mean phot?); its columns are id, spl"),
        ("2,train,hat", "2,train,shoe", "has one label, shoe; a classifier needs at least two"),
        ("validation,hat", "validation,coat", "labels that its train split lacks: coat"),
        ("b.png", "", "photo: fewer than two labelled rows of the train split"),
        (
            ",label,",
            ",class,",
            "no column for label; its columns are id, split, class, photo, title",
        ),
        (",split,", ",part,", "no column for split"),
        ("validation", "part2", "holds part2, train; the names of splits are train, validation, "),
        ("validation", "", "holds (empty), train; the names of splits are"),
        ("validation,hat", "validation,", "none of its rows has both a label and a modality"),
    ],
)
def test_table_that_cannot_train_a_classifier_is_rejected(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert message in rejection(tmp_path, GOOD.replace(old, new))


def test_unlabelled_row_needs_two_modalities(tmp_path: Path) -> None:
    more = "4,train,,c.png,three\n5,train,,,four\n6,validation,,d.png,five\n"
    (tmp_path / "table.csv").write_text(GOOD + more)
    rows = read_training_splits(TableSource(tmp_path / "table.csv", KINDS))
    labels = {row.id: row.label for row in rows["train"]}
    assert labels == {"1": "shoe", "2": "hat", "4": None}
    assert [row.id for row in rows["validation"]] == ["3"]


def test_table_without_enough_labels_is_rejected(tmp_path: Path) -> None:
    bare = GOOD.replace("train,shoe", "train,").replace("train,hat", "train,")
    assert "no labelled row in its train split" in rejection(tmp_path, bare)
    photos = GOOD.replace("b.png", "") + "4,train,,c.png,three\n5,train,,d.png,four\n"
    assert "photo: fewer than two labelled rows" in rejection(tmp_path, photos)


@pytest.mark.parametrize(
    ("labels", "mixed", "labelled"),
    [
        ([0, 1, 0], [0, 1, 2], [0, 1, 2]),
        ([0, -1, 1], [0, 2, 1], [0, 2, 0]),
        ([-1, 0, -1, -1, -1, 1, -1], [1, 5, 1, 5, 0, 2, 3, 4, 6], [1, 5, 1, 5, 1, 5, 1, 5, 1]),
    ],
)
def test_labelled_rows_make_up_half_of_an_epoch_of_fixed_length(
    labels: list[int], mixed: list[int], labelled: list[int]
) -> None:
    assert training_rows(np.array(labels), unlabelled=True).tolist() == mixed
    assert training_rows(np.array(labels), unlabelled=False).tolist() == labelled


def test_evaluation_accepts_a_table_that_lacks_a_modality(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("split,label,title\ntest,shoe,one\n")
    [row] = read_split(TableSource(tmp_path / "table.csv", KINDS), "test")
    assert row.sample == {"photo": None, "title": "one"}


@pytest.mark.parametrize("column", ["binary", "struct", "number"])
def test_tokenizer_is_trained_on_texts_of_every_form(tmp_path: Path, column: str) -> None:
    (tmp_path / "one.txt").write_text("seven running shoes")
    cell: object = {
        "binary": b"seven running shoes",
        "struct": {"bytes": None, "path": "one.txt"},
        "number": 7,
    }[column]
    rows = [{"split": split, "label": label, "title": cell} for split, label in CELLS]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    recipe = Recipe.model_validate(
        {"name": "a", "data": tmp_path / "t.parquet", "modalities": {"title": "text"}}
    )
    train = read_training_splits(recipe.source)["train"]
    _, assets = specifications(recipe, train, {})
    tokens = Tokenizer.from_str(assets["title"]["tokenizer.json"].decode())
    assert "[UNK]" not in tokens.encode("7" if column == "number" else "seven shoes").tokens


def test_text_modality_without_a_readable_text_is_rejected(tmp_path: Path) -> None:
    rows = [{"split": split, "label": label, "title": b"\xff\xfe"} for split, label in CELLS]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    recipe = Recipe.model_validate(
        {"name": "a", "data": tmp_path / "t.parquet", "modalities": {"title": "text"}}
    )
    train = read_training_splits(recipe.source)["train"]
    with pytest.raises(ManifestError, match="title: no text of the train split can be read"):
        specifications(recipe, train, {})
