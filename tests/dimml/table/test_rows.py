from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from dimml.errors import ManifestError, UsageError
from dimml.table import Row, TableSource, column_names, read_rows
from dimml.table.formats import count_rows
from dimml.table.rows import missing_columns

KINDS = {"audio": "audio", "image": "image", "text": "text"}
SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
RECORDS = [
    {"id": "a", "split": "train", "label": "007", "audio": "s/1.wav", "image": None, "text": "12"},
    {
        "id": None,
        "split": "test",
        "label": None,
        "audio": None,
        "image": "/x.png",
        "text": "7️⃣, שבע",
    },
    {"id": "c", "split": None, "label": "one", "audio": "", "image": "b.png", "text": "two\nlines"},
]


def write(folder: Path, suffix: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    elif suffix == ".csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def samples(path: Path) -> list[dict[str, Any]]:
    """Return the present modalities of each row."""
    return [
        {name: value for name, value in row.sample.items() if value is not None}
        for row in read_rows(TableSource(path, KINDS))
    ]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ManifestError) as caught:
        list(read_rows(TableSource(path, KINDS), **options))
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestEveryFormat:
    def test_every_format_yields_the_same_rows(self, tmp_path: Path, suffix: str) -> None:
        assert list(read_rows(TableSource(write(tmp_path, suffix, RECORDS), KINDS))) == [
            Row("a", "train", "007", {"audio": tmp_path / "s/1.wav", "image": None, "text": "12"}),
            Row("1", "test", None, {"audio": None, "image": Path("/x.png"), "text": "7️⃣, שבע"}),
            Row(
                "c", None, "one", {"audio": None, "image": tmp_path / "b.png", "text": "two\nlines"}
            ),
        ]

    def test_rows_of_a_split_keep_their_numbers(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path, suffix, RECORDS)
        assert [row.id for row in read_rows(TableSource(path, KINDS), "test")] == ["1"]
        assert list(read_rows(TableSource(path, KINDS), "validation")) == []

    def test_columns_that_are_not_modalities_are_ignored(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path, suffix, [{"note": "x", "text": "one"}])
        assert list(read_rows(TableSource(path, {"text": "text"}))) == [
            Row("0", None, None, {"text": "one"})
        ]

    def test_modalities_may_have_any_column_name(self, tmp_path: Path, suffix: str) -> None:
        path = write(tmp_path, suffix, [{"front": "a.png", "note": "b.png"}])
        [row] = read_rows(TableSource(path, {"front": "image", "note": "text"}))
        assert row.sample == {"front": tmp_path / "a.png", "note": "b.png"}

    @pytest.mark.parametrize("empty", [None, "", "  "])
    def test_empty_cell_is_an_absent_modality(
        self, tmp_path: Path, suffix: str, empty: str | None
    ) -> None:
        path = write(tmp_path, suffix, [{"audio": empty, "text": empty, "image": "a.png"}])
        assert samples(path) == [{"image": tmp_path / "a.png"}]

    def test_table_without_a_column_of_a_modality_is_rejected(
        self, tmp_path: Path, suffix: str
    ) -> None:
        message = refusal(write(tmp_path, suffix, [{"id": "a", "sound": "a.wav"}]))
        assert "audio, image, text" in message
        assert "its columns are id, sound" in message

    def test_missing_columns_are_named_with_similar_columns(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = write(tmp_path, suffix, [{"id": "a", "Imge": "a.png", "text": "one"}])
        assert not missing_columns(column_names(path), ["text"])
        assert missing_columns(column_names(path), KINDS).message(path) == (
            f"{path} has no column for audio, image (did you mean Imge?); its columns are "
            "id, Imge, text"
        )

    def test_table_without_splits_is_rejected_for_a_split(
        self, tmp_path: Path, suffix: str
    ) -> None:
        path = write(tmp_path, suffix, [{"text": "one"}])
        assert "no column for split" in refusal(path, split="test")

    def test_empty_file_is_rejected(self, tmp_path: Path, suffix: str) -> None:
        assert "is empty (0 bytes)" in refusal(written(tmp_path, f"table{suffix}", ""))

    def test_missing_file_is_rejected(self, tmp_path: Path, suffix: str) -> None:
        assert "no such table" in refusal(tmp_path / f"table{suffix}")

    def test_folder_is_rejected(self, tmp_path: Path, suffix: str) -> None:
        (path := tmp_path / f"table{suffix}").mkdir()
        with pytest.raises(UsageError, match=r"the folder .* holds no table"):
            read_rows(TableSource(path, KINDS))

    def test_unusable_table_is_rejected_before_the_first_row(
        self, tmp_path: Path, suffix: str
    ) -> None:
        with pytest.raises(ManifestError):
            read_rows(TableSource(tmp_path / f"table{suffix}", KINDS))


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_list_cells_become_lists_of_paths(tmp_path: Path, suffix: str) -> None:
    lists = [["a.png", "/b.png"], ["a.png", None], [None, ""], [], None]
    path = write(tmp_path, suffix, [{"image": value, "text": "one"} for value in lists])
    assert [row.sample["image"] for row in read_rows(TableSource(path, KINDS))] == [
        [tmp_path / "a.png", Path("/b.png")],
        [tmp_path / "a.png", None],
        None,
        None,
        None,
    ]


def test_parquet_cells_may_hold_bytes(tmp_path: Path) -> None:
    wav = b"RIFF\x24\x00\x00\x00WAVE"
    records = [{"audio": wav, "text": b"one"}, {"audio": b"", "text": None}]
    assert samples(write(tmp_path, ".parquet", records)) == [{"audio": wav, "text": b"one"}, {}]


def test_numbers_become_text(tmp_path: Path) -> None:
    for suffix in (".parquet", ".jsonl"):
        path = write(tmp_path, suffix, [{"id": 7, "label": 3, "text": 12}])
        [row] = read_rows(TableSource(path, KINDS))
        assert (row.id, row.label, row.sample["text"]) == ("7", "3", "12")


def test_nan_is_an_absent_value(tmp_path: Path) -> None:
    path = written(tmp_path, "table.jsonl", '{"label": NaN, "text": NaN}')
    assert list(read_rows(TableSource(path, {"text": "text"}))) == [
        Row("0", None, None, {"text": None})
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv", "\ufefftext,image\none,a.png\n"),
        ("table.csv", "text,image\r\none,a.png\r\n"),
        ("table.csv", '"text","image"\n"one","a.png"'),
        ("table.jsonl", '\ufeff{"text": "one", "image": "a.png"}'),
        ("table.jsonl", '\n{"text": "one", "image": "a.png"}\n\n'),
        ("table.jsonl", '{"image": "a.png", "text": "one"}\r\n'),
    ],
)
def test_usual_dialects_of_text_tables_are_read(tmp_path: Path, name: str, content: str) -> None:
    assert samples(written(tmp_path, name, content)) == [
        {"text": "one", "image": tmp_path / "a.png"}
    ]


def test_json_lines_may_leave_out_absent_keys(tmp_path: Path) -> None:
    records = [{"id": "a"}, {"split": "test", "text": "one"}, {"image": "a.png", "split": "test"}]
    path = write(tmp_path, ".jsonl", records)
    assert list(column_names(path)) == ["id", "split", "text", "image"]
    assert samples(path) == [{}, {"text": "one"}, {"image": tmp_path / "a.png"}]
    assert [row.id for row in read_rows(TableSource(path, KINDS), "test")] == ["1", "2"]


def test_table_without_rows_yields_no_rows(tmp_path: Path) -> None:
    schema = pa.schema({"text": pa.string()})
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "table.parquet")
    for path in (tmp_path / "table.parquet", written(tmp_path, "table.csv", "text\n")):
        assert column_names(path) == ["text"]
        assert list(read_rows(TableSource(path, KINDS))) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_suffix_in_capitals_names_the_same_format(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, RECORDS)
    capital = path.rename(path.with_suffix(suffix.upper()))
    assert [row.id for row in read_rows(TableSource(capital, KINDS))] == ["a", "1", "c"]
    assert count_rows(capital) == 3


@pytest.mark.parametrize("name", ["table.xlsx", "table", "table.gz", "table.parquet.gz"])
def test_other_suffix_is_rejected_with_the_accepted_ones(tmp_path: Path, name: str) -> None:
    message = refusal(written(tmp_path, name, "text\none\n"))
    assert ".parquet, .csv, .tsv, .csv.gz, .tsv.gz, .jsonl, .ndjson" in message


LATIN = "text\ncaf\xe9\n".encode("latin-1")
MALFORMED = {
    "a Parquet that is none": ("table.parquet", b"text\none\n", "not a Parquet file"),
    "a cut Parquet": ("table.parquet", b"PAR1" + bytes(100), "not a Parquet file"),
    "Latin-1 in CSV": ("table.csv", LATIN, "line 2: the cell of text is not UTF-8 (byte 0xE9"),
    "Latin-1 far into a CSV": (
        "table.csv",
        b"text\n" + b"x\n" * 99_999 + LATIN,
        "line 100002: the cell",
    ),
    "UTF-16 in CSV": (
        "table.csv",
        "text\none\n".encode("utf-16"),
        "line 1: the table is in UTF-16; write it again in UTF-8",
    ),
    "a short row": ("table.csv", "text,image\none\n", "line 2 has 1 cells; the header has 2"),
    "a column twice in CSV": ("table.csv", "text,x,text\na,b,c\n", "several columns named text"),
    "Latin-1 in JSON": (
        "table.jsonl",
        b'{"text": "caf\xe9"}',
        "line 1: the cell of text is not UTF-8",
    ),
    "cut JSON": ("table.jsonl", '{"text": "a"}\n{"text": ', "line 2 is not JSON"),
    "JSON too deep": ("table.jsonl", '{"text": ' + "[" * 100_000, "line 1 is not JSON"),
    "a JSON list": ("table.jsonl", '[{"text": "a"}]', "line 1 is not a JSON object"),
    "blank JSON": ("table.jsonl", "\n\n", "its columns are none"),
}


@pytest.mark.parametrize(("name", "content", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_table_is_rejected_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, reason: str
) -> None:
    assert reason in refusal(written(tmp_path, name, content))


def test_repeated_parquet_column_is_rejected(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, path := tmp_path / "table.parquet")
    assert "several columns named text; keep one of each" in refusal(path)


@pytest.mark.parametrize(
    ("name", "head", "line", "end"),
    [
        ("table.jsonl", "", '{"text": "one"}\n', "{"),
        ("table.csv", "text,image\n", f"one,{'x' * 1_000}\n", "one\n"),
    ],
)
def test_rows_before_a_malformed_line_are_yielded(
    tmp_path: Path, name: str, head: str, line: str, end: str
) -> None:
    rows = read_rows(TableSource(written(tmp_path, name, head + line * 10_000 + end), KINDS))
    assert [row.id for row in islice(rows, 3)] == ["0", "1", "2"]
    with pytest.raises(ManifestError):
        list(rows)


def test_rows_before_a_damaged_row_group_are_yielded(tmp_path: Path) -> None:
    table = pa.table({"text": [f"number {i}" for i in range(2_000)]})
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=1_000, use_dictionary=False)
    with pyarrow.parquet.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    rows = read_rows(TableSource(path, KINDS))
    assert next(rows).sample["text"] == "number 0"
    with pytest.raises(ManifestError, match="cannot be read"):
        list(rows)
