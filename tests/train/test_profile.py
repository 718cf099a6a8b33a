from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from train.profile import profile_table


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([f"a nice thing {n}" for n in range(9)], "text"),
        (["red", "blue", "red"] * 3, "category"),
        ([f"{n}.5" for n in range(9)], "number"),
        ([f"x-{n}" for n in range(9)], "id"),
        ([f"2024-01-0{n} 10:00" for n in range(9)], "other"),
        ([f"https://a.org/{n}" for n in range(9)], "other"),
        ([f"https://a.org/{n}.jpg?w=3" for n in range(9)], "image"),
        (["a.png", "b.wav"] * 5, "other"),
        ([""] * 9, "empty"),
        ([f"漢字の説明文{n}" for n in range(9)], "text"),
    ],
)
def test_kind_of_a_column(tmp_path: Path, cells: list[str], kind: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text("".join(f"{line}\n" for line in ["n,cell", *(f"1,{c}" for c in cells)]))
    columns, _ = profile_table(table)
    assert columns[1].kind == kind


def test_damaged_file_in_a_cell_has_the_kind_of_its_header(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    cells = {"call": [b"RIFF\xff\xff\xff\xffWAVEfmt "] * 3, "photo": [b"\x89PNG\r\n\x1a\nIHDR"] * 3}
    pq.write_table(pa.table(cells | {"data": [b"\xff\0\1"] * 3}), table)
    columns, complete = profile_table(table)
    assert [column.kind for column in columns] == ["audio", "image", "other"]
    assert complete


def test_path_that_is_too_long_is_a_missing_file(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("photo\n" + f"{'x' * 300}.png\n" * 3)
    photo = profile_table(table)[0][0]
    assert (photo.files, photo.missing_files) == (3, 3)
    assert "File name too long" in photo.missing_file


def test_missing_cells_and_values_are_counted(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("photo,size\n,1\nx.png,\n,1\n,2\n")
    photo, size = profile_table(table)[0]
    assert (photo.missing, photo.files, photo.missing_files) == (3, 1, 1)
    assert (size.missing, size.distinct, dict(size.values)) == (1, 2, {"1": 2, "2": 1})
