from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import ManifestError
from dimml.table import TableSource, column_names, read_rows
from dimml.table.delimited import detect_separator
from dimml.table.formats import count_rows, read_records
from dimml.table.layout import TableLayout


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def records(path: Path, **options: Any) -> list[Any]:
    return list(read_records(path, **options))


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")]
)
def test_other_separators_are_detected_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], separator: str, name: str
) -> None:
    lines = [["id", "text"], ["a", '"one, two"'], ["b", "3,5"]]
    path = written(tmp_path / "t.csv", "\n".join(separator.join(line) for line in lines))
    assert records(path) == [{"id": "a", "text": "one, two"}, {"id": "b", "text": "3,5"}]
    assert list(column_names(path)) == ["id", "text"]
    assert capsys.readouterr().err == f"{path}: its cells are separated by {name}\n"


@pytest.mark.parametrize(
    ("header", "separator"),
    [
        ("id,text", ","),
        ("text", ","),
        ("id;text, long;label", ";"),
        ('id,"a;b;c",text', ","),
        ("a,b;c,d", ","),
        ("a|b,c", ","),
    ],
)
def test_separator_is_the_one_with_the_most_columns(header: str, separator: str) -> None:
    assert detect_separator(header) == separator


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.TSV"])
def test_tabs_separate_the_cells_of_tsv(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, "id\ttext\na\tone, two\n")
    assert records(path) == [{"id": "a", "text": "one, two"}]


@pytest.mark.parametrize("name", ["t.csv.gz", "t.tsv.gz", "t.CSV.GZ"])
def test_compressed_tables_are_read(tmp_path: Path, name: str) -> None:
    separator = "\t" if "tsv" in name.lower() else ","
    path = written(
        tmp_path / name, gzip.compress(f"id{separator}text\na{separator}\u00e9\n".encode())
    )
    assert list(column_names(path)) == ["id", "text"]
    assert records(path) == [{"id": "a", "text": "\u00e9"}]
    assert count_rows(path) == 1


def test_compressed_json_lines_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))
    assert records(path) == [{"text": "one"}]


@pytest.mark.parametrize(
    "content",
    [b"id,text\n", gzip.compress(b"id,text\na,one\n" * 99)[:-20]],
    # The time of compression is part of the bytes, and two processes must agree on names.
    ids=["not-compressed", "cut"],
)
def test_damaged_compressed_table_is_rejected(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        records(written(tmp_path / "t.csv.gz", content))


def test_blanks_around_header_names_are_removed(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ' id , text ,"photo "\n a , "one, two", x.png\n')
    assert records(path) == [{"id": "a", "text": "one, two", "photo": "x.png"}]
    plain = written(tmp_path / "plain.csv", "id ,text\na, one\n")
    assert records(plain) == [{"id": "a", "text": " one"}]


def test_empty_cells_at_line_ends_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,text\na,one,,\nb,two\nc,three, ,\nd,four,x\n")
    read = records(path)
    assert read[:3] == [
        {"id": n, "text": t} for n, t in (("a", "one"), ("b", "two"), ("c", "three"))
    ]
    assert read[3].error.message == "line 5 has 3 cells; the header has 2"


def test_unnamed_columns_may_be_left_out_at_line_ends(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "id,text,,\na,one\nb\n")
    read = records(path)
    assert read[0] == {"id": "a", "text": "one"}
    assert read[1].error.message == "line 3 has 1 cells; the header has 4"


@pytest.mark.parametrize("cell", ["nan", "None", "NA", "N/A", "null", "<NA>", "#N/A"])
def test_cells_that_stand_for_nothing_are_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: str
) -> None:
    path = written(tmp_path / "t.csv", f"id,text,note\na,{cell},{cell}\nb,one,\n")
    assert records(path, used=["id", "text"])[0] == {"id": "a", "text": None, "note": cell}
    err = capsys.readouterr().err
    assert err == (
        f"{path}: cells that hold {cell} count as empty: 1; --keep-na, or keep_na in a "
        "recipe's data, keeps them as text\n"
    )
    assert records(path, keep_na=True)[0] == {"id": "a", "text": cell, "note": cell}
    records(path, used=["id", "text"])
    assert not capsys.readouterr().err


def test_rows_of_a_layout_keep_such_cells_as_text(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "label,text\nNA,null\n")
    [empty] = read_rows(TableSource(path, {"text": "text"}))
    [kept] = read_rows(TableSource(path, {"text": "text"}, TableLayout(keep_na=True)))
    assert (empty.label, empty.sample["text"]) == (None, None)
    assert (kept.label, kept.sample["text"]) == ("NA", "null")


def test_large_cells_in_unused_columns_are_no_obstacle(tmp_path: Path) -> None:
    large = "x" * 3_000_000
    path = written(tmp_path / "t.csv", f"text,html\none,{large}\ntwo,{large}\n")
    assert [row.sample["text"] for row in read_rows(TableSource(path, {"text": "text"}))] == [
        "one",
        "two",
    ]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("utf-32", "UTF-32"),
    ],
)
def test_other_unicode_encodings_are_named_with_a_remedy(
    tmp_path: Path, encoding: str, name: str
) -> None:
    path = written(tmp_path / "t.csv", "id,text\na,one\n".encode(encoding))
    with pytest.raises(
        ManifestError, match=f"line 1: the table is in {name}; .* -f {name} -t UTF-8"
    ):
        column_names(path)


def test_separator_that_a_spreadsheet_states_is_used(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "sep=;\r\nid;text\r\na;one, two\r\nb\r\n")
    read = records(path)
    assert read[0] == {"id": "a", "text": "one, two"}
    assert read[1].error.message == "line 4 has 1 cells; the header has 2"


def test_lines_between_stray_quotes_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", 'id,text\na,"one\nb,two\nc,"three\nd,four\n')
    read = records(path)
    assert read[0].error.message.startswith("lines 2 to 4 are not CSV")
    assert read[1] == {"id": "d", "text": "four"}


def test_row_of_many_lines_gets_a_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "t.csv", 'id,text\na,"' + "one\n" * 40 + '"\n')
    assert len(records(path)) == 1
    assert "the row of line 2 spans 41 lines; is a quote missing?" in capsys.readouterr().err


def test_late_windows_1252_is_named_with_its_line_and_a_remedy(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", b"text\n" + b"x\n" * 9_999 + b"\x80 5\n")
    with pytest.raises(ManifestError) as caught:
        list(read_rows(TableSource(path, {"text": "text"})))
    assert (
        "line 10001: the cell of text is not UTF-8 (byte 0x80, which is '\u20ac' in Windows-1252)"
        in (caught.value.message)
    )
    assert "iconv -f WINDOWS-1252 -t UTF-8" in caught.value.message
