from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from dimml.errors import ManifestError
from dimml.table.formats import column_names, count_rows, read_records
from dimml.table.records import BrokenRecord

TABLE = pa.table({"id": ["a", "b", "c"], "text": ["one", "two", "three"]})


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def errors(records: list[Any]) -> list[tuple[str | None, str]]:
    return [(r.id, r.error.message) for r in records if isinstance(r, BrokenRecord)]


def test_rows_of_every_format_are_counted(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(TABLE, tmp_path / "t.parquet")
    pyarrow.csv.write_csv(TABLE, tmp_path / "t.csv")
    for suffix in (".jsonl", ".ndjson"):
        written(tmp_path / f"t{suffix}", b'{"text": "one"}\n\n{"text": "two"}\n{\n')
    assert [count_rows(path) for path in sorted(tmp_path.iterdir())] == [3] * 4


def test_broken_csv_lines_are_records_between_the_others(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", b'id,text\na,"x"y\nb\n\nc,007\n\xff,1,2\nd,\xff\n')
    records = list(read_records(path))
    assert records[2] == {"id": "c", "text": "007"}
    assert errors(records) == [
        (None, "line 2 is not CSV: ',' expected after '\"'"),
        ("b", "line 3 has 1 cells; the header has 2"),
        (None, "line 6 has 3 cells; the header has 2"),
        (
            "d",
            "line 7: the cell of text is not UTF-8 (byte 0xFF, which is 'ÿ' in Windows-1252); "
            "write the table again in UTF-8, as `iconv -f WINDOWS-1252 -t UTF-8` does",
        ),
    ]


def test_surrogate_in_a_json_list_is_not_utf8(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", b'{"id": "a", "tags": ["\\ud800"]}\n{"id": "b"}\n')
    broken, record = read_records(path)
    assert errors([broken]) == [("a", "line 1: the cell of tags is not UTF-8")]
    assert record == {"id": "b"}


def test_columns_of_json_lines_are_those_of_readable_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", b'{\n{"text": "one"}\n[]\n{"id": "a"}\n')
    assert list(column_names(path)) == ["text", "id"]


def test_json_lines_without_a_readable_line_are_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", b"{\n[]\n")
    with pytest.raises(ManifestError, match=r"line 1 is not JSON.*; no line can be read"):
        list(column_names(path))


def test_csv_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", b"text,,\none,1,2\n")
    assert [record["text"] for record in read_records(path)] == ["one"]  # type: ignore[index]
