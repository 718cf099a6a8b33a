from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from dimml.errors import InputError, ManifestError, UsageError
from serving.offline.inputs import Inputs, ScoreRow
from serving.offline.remote import RemoteFile, find_tables

KINDS = {"audio": "audio", "text": "text"}
SUFFIXES = (".parquet", ".csv", ".jsonl")


def write(path: Path, records: list[dict[str, Any]], **options: Any) -> str:
    table = pa.Table.from_pylist(records)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, **options)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def inputs(*tables: str, **options: Any) -> Inputs:
    columns = {name: options.get("columns", {}).get(name, name) for name in KINDS}
    return Inputs(tables, KINDS, columns, options.get("keep", {}), options.get("schemes", ()))


def rows(job_inputs: Inputs, **options: Any) -> list[ScoreRow]:
    return [row for window in job_inputs.windows(4, 3, **options) for row in window.rows]


def numbered(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "text": f"t{n}", "sku": f"s{n}"} for n in range(count)]


@pytest.mark.parametrize("suffix", SUFFIXES)
class TestEveryFormat:
    def test_windows_do_not_cross_parts_and_keep_the_order(
        self, tmp_path: Path, suffix: str
    ) -> None:
        table = write(tmp_path / f"t{suffix}", numbered(10))
        windows = list(inputs(table, keep={"sku": "sku"}).windows(4, 3))
        assert [(w.part, [r.id for r in w.rows]) for w in windows] == [
            (0, ["r0", "r1", "r2"]),
            (0, ["r3"]),
            (1, ["r4", "r5", "r6"]),
            (1, ["r7"]),
            (2, ["r8", "r9"]),
        ]
        kept = pa.concat_tables([w.kept for w in windows])
        assert kept.column("sku").to_pylist() == [f"s{n}" for n in range(10)]

    def test_reading_starts_at_any_part_and_leaves_out_complete_parts(
        self, tmp_path: Path, suffix: str
    ) -> None:
        options = {"row_group_size": 3} if suffix == ".parquet" else {}
        tables = [
            write(tmp_path / f"{name}{suffix}", numbered(count), **options)
            for name, count in (("a", 5), ("b", 1), ("c", 9))
        ]
        whole = rows(inputs(*tables))
        assert len(whole) == inputs(*tables).count() == 15
        assert rows(inputs(*tables), start=2) == whole[8:]
        assert rows(inputs(*tables), start=1, stop=2) == whole[4:8]
        assert rows(inputs(*tables), done={0, 2}) == [*whole[4:8], *whole[12:]]

    def test_rows_of_tables_without_ids_are_numbered_over_all_tables(
        self, tmp_path: Path, suffix: str
    ) -> None:
        tables = [write(tmp_path / f"{n}{suffix}", [{"text": "x"}] * 3) for n in "ab"]
        assert [row.id for row in rows(inputs(*tables))] == list("012345")
        assert [row.id for row in rows(inputs(*tables), start=1)] == ["4", "5"]

    def test_columns_can_be_renamed_and_paths_are_relative_to_their_table(
        self, tmp_path: Path, suffix: str
    ) -> None:
        table = write(tmp_path / f"t{suffix}", [{"clip": "a/1.wav", "title": "seven"}])
        [row] = rows(inputs(table, columns={"audio": "clip", "text": "title"}))
        assert row.sample == {"audio": str(tmp_path / "a/1.wav"), "text": "seven"}

    def test_missing_column_that_an_option_names_is_rejected(
        self, tmp_path: Path, suffix: str
    ) -> None:
        table = write(tmp_path / f"t{suffix}", [{"titel": "seven", "audio": "x"}])
        with pytest.raises(UsageError, match=r"no column for title \(did you mean titel\?\)"):
            inputs(table, columns={"text": "title"}).check({"text"})
        with pytest.raises(UsageError, match=r"--keep: .* no column for sku"):
            inputs(table, keep={"x": "sku"}).check()

    def test_table_without_a_column_of_a_modality_is_rejected(
        self, tmp_path: Path, suffix: str
    ) -> None:
        table = write(tmp_path / f"t{suffix}", [{"a": "1"}])
        with pytest.raises(ManifestError, match="--column MODALITY=COLUMN"):
            inputs(table).check()

    def test_modality_without_a_column_gives_a_warning(self, tmp_path: Path, suffix: str) -> None:
        table = write(tmp_path / f"t{suffix}", [{"text": "one", "audo": "x"}])
        warning = inputs(table).check()
        assert warning
        assert "no column for audio (did you mean audo?)" in warning


class TestBrokenLines:
    def test_broken_csv_lines_do_not_affect_other_rows(self, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_bytes(b'id,text\na,one\nb,two,three\nc\n\nd,"caf\xe9"\ne,"a\nb"\n')
        result = rows(inputs(str(table)))
        assert [row.id for row in result] == ["a", "b", "c", "d", "e"]
        assert result[4].sample == {"audio": None, "text": "a\nb"}
        messages = [str(row.sample) for row in result if isinstance(row.sample, InputError)]
        assert messages == [
            "line 3 has 3 cells; the header has 2",
            "line 4 has 1 cells; the header has 2",
            "line 6: the cell of text is not UTF-8 (byte 0xE9, which is 'é' in Windows-1252); "
            "write the table again in UTF-8, as `iconv -f WINDOWS-1252 -t UTF-8` does",
        ]

    def test_broken_json_lines_do_not_affect_other_rows(self, tmp_path: Path) -> None:
        table = tmp_path / "t.jsonl"
        table.write_bytes(b'{"text": "one"}\n{"text": \n[1]\n\n{"text": "\xff"}\n{"text": "x"}\n')
        job_inputs = inputs(str(table))
        assert job_inputs.count() == 5
        result = rows(job_inputs)
        broken = [n for n, row in enumerate(result) if isinstance(row.sample, InputError)]
        assert broken == [1, 2, 3]
        # Broken lines do not hide the columns of the other lines.
        assert "no column for audio" in str(job_inputs.check())

    def test_unclosed_csv_quote_is_rejected_with_its_line(self, tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text('id,text\na,one\nb,"two\nc,three\n')
        with pytest.raises(ManifestError, match="line 3: a quote is opened and never closed"):
            inputs(str(table)).count()

    def test_row_whose_id_cannot_be_read_has_no_id(self, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_text('{"id": "1", "text": "x"}\n{\n{"text": "y"}\n')
        assert [row.id for row in rows(inputs(str(tmp_path / "t.jsonl")))] == ["1", None, None]


class TestCells:
    def test_hugging_face_struct_counts_as_its_bytes_or_its_path(self, tmp_path: Path) -> None:
        audio = [{"bytes": b"RIFF", "path": "a.wav"}, {"bytes": None, "path": "b.wav"}, None]
        table = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pa.table({"audio": audio, "text": ["x", "y", "z"]}), table)
        result = [row.sample["audio"] for row in rows(inputs(str(table)))]  # type: ignore[index]
        assert result == [b"RIFF", str(tmp_path / "b.wav"), None]

    def test_url_is_read_only_if_its_scheme_is_allowed(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(b"RIFF")
        url = f"file://{tmp_path}/a.wav"
        table = write(tmp_path / "t.csv", [{"audio": url, "text": "x"}])
        for schemes, expected in (((), None), (("file",), b"RIFF")):
            [row] = rows(inputs(table, schemes=schemes))
            cell = row.sample["audio"]  # type: ignore[index]
            assert isinstance(cell, RemoteFile)
            if expected:
                assert cell.read(10) == expected
            else:
                with pytest.raises(OSError, match="--allow-scheme file"):
                    cell.read(10)

    def test_kept_parquet_columns_keep_their_types(self, tmp_path: Path) -> None:
        when = datetime(2026, 1, 2, 3, 4, 5)
        table = write(tmp_path / "t.parquet", [{"text": "x", "when": when, "tags": ["a"]}])
        job_inputs = inputs(table, keep={"at": "when", "tags": "tags"})
        [window] = job_inputs.windows(4, 3)
        assert window.kept.to_pylist() == [{"at": when, "tags": ["a"]}]

    def test_nanosecond_timestamps_as_id_and_text_need_no_pandas(self, tmp_path: Path) -> None:
        when = pa.array([1_700_000_000_000_000_001], pa.timestamp("ns"))
        pyarrow.parquet.write_table(pa.table({"id": when, "text": when}), tmp_path / "t.parquet")
        [row] = rows(inputs(str(tmp_path / "t.parquet")))
        assert row.id == "2023-11-14 22:13:20.000000001"
        assert row.sample["text"] == row.id  # type: ignore[index]

    def test_kept_json_values_are_text(self, tmp_path: Path) -> None:
        table = write(tmp_path / "t.jsonl", [{"text": "x", "n": 1}, {"text": "y", "n": None}])
        [window] = inputs(table, keep={"n": "n"}).windows(4, 3)
        assert window.kept.column("n").to_pylist() == ["1", None]

    def test_kept_columns_of_two_tables_must_agree(self, tmp_path: Path) -> None:
        tables = [
            write(tmp_path / "a.parquet", [{"text": "x", "n": 1}]),
            write(tmp_path / "b.parquet", [{"text": "x", "n": "1"}]),
        ]
        with pytest.raises(UsageError, match="must agree"):
            inputs(*tables, keep={"n": "n"}).check()


class TestFindTables:
    def test_folder_yields_its_visible_tables_in_order(self, tmp_path: Path) -> None:
        for name in ("b.csv", "a/1.parquet", "_x.csv", ".y.csv", "notes.txt", "out/p.parquet"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        tables = find_tables(str(tmp_path), (), leave_out=[tmp_path / "out"])
        assert tables == (str(tmp_path / "a/1.parquet"), str(tmp_path / "b.csv"))

    def test_pattern_yields_the_matching_tables_in_order(self, tmp_path: Path) -> None:
        for name in ("2.csv", "1.csv", "1.txt"):
            (tmp_path / name).write_text("x")
        assert find_tables(f"{tmp_path}/*", ()) == (f"{tmp_path}/1.csv", f"{tmp_path}/2.csv")
        with pytest.raises(UsageError, match="no table matches"):
            find_tables(f"{tmp_path}/*.parquet", ())

    def test_url_of_a_scheme_that_is_not_allowed_is_rejected(self) -> None:
        with pytest.raises(UsageError, match="--allow-scheme s3"):
            find_tables("s3://bucket/t.csv", ("http",))
