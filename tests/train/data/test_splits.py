"""Tables that training and evaluation accept or reject, and the rows of an epoch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer

from dimml.errors import ManifestError
from dimml.table import SplitRule, TableLayout, TableSource, rows
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
        ("validation,hat", "validation,coat", "labels that its train split lacks: coat (row 3)"),
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


def test_label_that_only_the_test_split_has_is_rejected_with_its_first_row(tmp_path: Path) -> None:
    rows = "t1,test,hat,,one\nt2,test,coat,,one\nt3,test,coat,,two\n"
    message = rejection(tmp_path, GOOD + rows)
    assert "the test split of " in message
    assert "has labels that its train split lacks: coat (row t2); add a row with each" in message


def test_error_names_five_of_many_labels_that_only_the_test_split_has(tmp_path: Path) -> None:
    rows = "".join(f"t{number},test,coat{number:04},,one\n" for number in range(1200))
    message = rejection(tmp_path, GOOD + rows)
    assert "coat0004 (row t4) and 1,195 more; add" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "rows",
    ["t1,test,,c.png,one\n", "t1,test,hat,,one\n", "t1,test,coat,,\n", "t1,later,coat,,one\n"],
    ids=["without a label", "with a known label", "without a modality", "of another split"],
)
def test_test_row_that_evaluation_can_use_or_leaves_out_is_accepted(
    tmp_path: Path, rows: str
) -> None:
    (tmp_path / "table.csv").write_text(GOOD + rows)
    assert read_training_splits(TableSource(tmp_path / "table.csv", KINDS))


def test_label_that_only_the_assigned_test_split_has_is_rejected(tmp_path: Path) -> None:
    # The rows of a group stay in one split, here the largest, so all coats are test rows.
    lines = [f"{('hat', 'shoe')[number % 2]},g{number},one\n" for number in range(40)]
    content = "label,group,title\n" + "".join([*lines, *["coat,coats,one\n"] * 3])
    (tmp_path / "table.csv").write_text(content)
    layout = TableLayout(rule=SplitRule(validation=0.15, test=0.6, by="group"))
    source = TableSource(tmp_path / "table.csv", {"title": "text"}, layout)
    with pytest.raises(ManifestError, match=r"the test split .* coat \(row 40\)"):
        read_training_splits(source)


def test_only_the_columns_of_labels_are_read_of_a_test_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"id": "Number", "label": "Class", "split": "Part"}
    content = GOOD.replace("id,split,label", "Number,Part,Class") + "4,test,hat,c.png,three\n"
    (tmp_path / "table.csv").write_text(content)
    source = TableSource(tmp_path / "table.csv", KINDS, TableLayout(columns=columns))
    used = []
    read_records = rows.read_records

    def noted(path: Path, names: Collection[str] | None, keep_na: bool) -> Any:
        used.append(sorted(names or ()))
        return read_records(path, names, keep_na)

    monkeypatch.setattr(rows, "read_records", noted)
    read_training_splits(source)
    assert used[-1] == ["Class", "Number", "Part"]


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
