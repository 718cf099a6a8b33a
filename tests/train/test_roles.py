from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from dimml.errors import UsageError
from train.profile import ColumnProfile, profile_table
from train.roles import choose_roles, modality_names


def label_of(table: Path, header: str, rows: Iterable[str]) -> str:
    """Write a table, and return the column that is chosen as its label."""
    table.write_text("\n".join([header, *rows]) + "\n")
    columns, complete = profile_table(table)
    return choose_roles(table, columns, None, complete).label.name


def test_two_label_columns_are_not_guessed_between(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},{'ab'[n % 2]}{n % 3}" for n in range(20)]
    message = r"labels: class \(2 values\), category \(6 values\)\. Name the label with --label"
    with pytest.raises(UsageError, match=message):
        label_of(tmp_path / "t.csv", "photo,class,category", rows)


def test_two_categories_are_not_guessed_between(tmp_path: Path) -> None:
    rows = [f"{n}.png,c{n % 2},d{n % 3}" for n in range(20)]
    with pytest.raises(UsageError, match=r"labels: paint \(2 values\), shape \(3 values\)"):
        label_of(tmp_path / "t.csv", "photo,paint,shape", rows)


def test_column_named_label_comes_before_other_label_names(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},{n % 3}" for n in range(20)]
    assert label_of(tmp_path / "t.csv", "photo,category,Label", rows) == "Label"


def test_only_category_is_the_label(tmp_path: Path) -> None:
    rows = [f"{n}.png,{'red' if n % 2 else 'blue'},{n / 8}" for n in range(20)]
    assert label_of(tmp_path / "t.csv", "photo,paint,price", rows) == "paint"


def test_numbers_are_not_the_label_in_silence(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},{n / 8}" for n in range(20)]
    with pytest.raises(UsageError, match=r"beyond doubt; candidates: stars \(2 values\)"):
        label_of(tmp_path / "t.csv", "photo,stars,price", rows)


def test_table_without_a_label_is_rejected_with_its_columns(tmp_path: Path) -> None:
    rows = [f"{n}.png,c{n}" for n in range(20)]
    with pytest.raises(UsageError, match=r"candidates: none; the columns are photo, code\. Name"):
        label_of(tmp_path / "t.csv", "photo,code", rows)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["id", "label"], ["image_id", "image_label"]),
        (["Foto 1", "foto_1"], ["foto_1", "image_foto_1"]),
        (["画像", "2023", "写真"], ["image", "image_2023", "image_2"]),
        (["photo", "photo_weight"], ["photo", "image_photo_weight"]),
        (["Größe", "x" * 60], ["grosse", "x" * 24]),
        (["con", "help"], ["image_con", "image_help"]),
    ],
)
def test_unusable_column_names_become_modality_names(columns: list[str], names: list[str]) -> None:
    assert modality_names([ColumnProfile(c, "image", 1, 0) for c in columns]) == names
