"""Which tables training and evaluation take, and what is said of those they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dimml.errors import ManifestError
from train.data.splits import read_split, read_training_splits, training_rows

KINDS = {"photo": "image", "title": "text"}
GOOD = (
    "id,split,label,photo,title\n"
    "1,train,shoe,a.png,one\n"
    "2,train,hat,b.png,two\n"
    "3,validation,hat,,two\n"
)


def refusal(folder: Path, content: str) -> str:
    (folder / "table.csv").write_text(content)
    with pytest.raises(ManifestError) as raised:
        read_training_splits(folder / "table.csv", KINDS)
    return raised.value.message


def test_the_smallest_table_that_training_takes(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(GOOD)
    rows = read_training_splits(tmp_path / "table.csv", KINDS)
    assert {split: [row.id for row in found] for split, found in rows.items()} == {
        "train": ["1", "2"],
        "validation": ["3"],
    }


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",photo,", ",phot,", "no column for photo (did you mean phot?); its columns are id, spl"),
        ("2,train,hat", "2,train,shoe", "has one label, shoe; a classifier needs at least two"),
        ("validation,hat", "validation,coat", "labels that its train split lacks: coat"),
        ("b.png", "", "photo: fewer than two labelled rows of the train split"),
        (",label,", ",class,", "no column `label`; its columns are id, split, class, photo, title"),
        (",split,", ",part,", "no column `split`"),
        ("validation", "val", "holds train, val; the names of splits are train, validation, test"),
        ("validation", "", "holds (empty), train; the names of splits are"),
        ("validation,hat", "validation,", "none of its rows has both a label and a modality"),
    ],
)
def test_a_table_that_makes_no_classifier_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert said in refusal(tmp_path, GOOD.replace(old, new))


def test_a_row_without_a_label_needs_two_modalities(tmp_path: Path) -> None:
    more = "4,train,,c.png,three\n5,train,,,four\n6,validation,,d.png,five\n"
    (tmp_path / "table.csv").write_text(GOOD + more)
    rows = read_training_splits(tmp_path / "table.csv", KINDS)
    labels = {row.id: row.label for row in rows["train"]}
    assert labels == {"1": "shoe", "2": "hat", "4": None}
    assert [row.id for row in rows["validation"]] == ["3"]


def test_rows_without_a_label_make_no_classifier(tmp_path: Path) -> None:
    bare = GOOD.replace("train,shoe", "train,").replace("train,hat", "train,")
    assert "no labelled row in its train split" in refusal(tmp_path, bare)
    photos = GOOD.replace("b.png", "") + "4,train,,c.png,three\n5,train,,d.png,four\n"
    assert "photo: fewer than two labelled rows" in refusal(tmp_path, photos)


@pytest.mark.parametrize(
    ("labels", "mixed", "labelled"),
    [
        ([0, 1, 0], [0, 1, 2], [0, 1, 2]),
        ([0, -1, 1], [0, 2, 1], [0, 2, 0]),
        ([-1, 0, -1, -1, -1, 1, -1], [1, 5, 1, 5, 0, 2, 3, 4, 6], [1, 5, 1, 5, 1, 5, 1, 5, 1]),
    ],
)
def test_rows_with_a_label_are_about_half_of_equally_many(
    labels: list[int], mixed: list[int], labelled: list[int]
) -> None:
    assert training_rows(np.array(labels), unlabelled=True).tolist() == mixed
    assert training_rows(np.array(labels), unlabelled=False).tolist() == labelled


def test_an_evaluation_takes_a_table_that_lacks_a_modality(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("split,label,title\ntest,shoe,one\n")
    [row] = read_split(tmp_path / "table.csv", KINDS, "test")
    assert row.sample == {"photo": None, "title": "one"}
