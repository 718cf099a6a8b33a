"""Jobs in this process; `test_cli.py` starts, stops and kills the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from dimml import Predictor
from dimml.errors import DimmlError, UsageError
from dimml.files import locked_folder
from serving.offline.job import EngineOptions, ScoreOptions, score_tables

ON_CPU = EngineOptions(providers="cpu", workers=1)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(16_000) / 9), 16_000)
    path = tmp_path / "in.csv"
    path.write_text(
        "id,audio,text,sku\n"
        "a,,seven,1\nb,missing.wav,,2\nc,,,3\nd,missing.wav,one,4\ne,a.wav,two,5\n"
    )
    return path


def scored(path: Path) -> list[dict[str, Any]]:
    return list(pyarrow.parquet.read_table(path).to_pylist())


class TestOutput:
    def test_rows_keep_their_order_and_an_unreadable_row_gets_an_error(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        options = ScoreOptions(probabilities=True, keep={"sku": "sku"})
        out = tmp_path / "out.parquet"
        report = score_tables(tiny_bundle, str(table), out, options, ON_CPU)
        rows = scored(out)
        assert report["rows"] == 5
        assert report["errors"] == {"no_modality": 1, "unreadable": 2}
        assert [row["id"] for row in rows] == list("abcde")
        assert [row["sku"] for row in rows] == list("12345")
        codes = [None, "unreadable", "no_modality", "unreadable", None]
        assert [row["error_code"] for row in rows] == codes
        assert rows[1]["error_field"] == "audio"
        predictor = Predictor.load(tiny_bundle, "cpu")
        for row, sample in (
            (rows[0], {"text": "seven"}),
            (rows[4], {"audio": tmp_path / "a.wav", "text": "two"}),
        ):
            expected = predictor.predict(sample)
            assert row["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)
            assert row["label"] == expected.label
            assert row["prediction_set"] == list(expected.prediction_set)
            assert row["bundle"] == predictor.bundle.id
            for name, output in expected.modalities.items():
                assert row[f"{name}_present"] == output.present
                assert row[f"{name}_label"] == output.label
                assert row[f"{name}_weight"] == pytest.approx(output.weight, abs=1e-5)
        assert not (tmp_path / "out.parquet.parts").exists()
        assert json.loads((tmp_path / "out.parquet.success.json").read_text()) == report

    def test_unreadable_cell_counts_as_absent_on_request(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        options = ScoreOptions(on_unreadable="absent")
        report = score_tables(tiny_bundle, str(table), tmp_path / "out", options, ON_CPU)
        assert report["errors"] == {"no_modality": 2}
        assert scored(tmp_path / "out/part-00000.parquet")[3]["text_present"] is True

    def test_every_output_format_holds_the_same_values(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        outs = [tmp_path / f"out{suffix}" for suffix in (".parquet", ".jsonl", ".csv")]
        for out in outs:
            score_tables(tiny_bundle, str(table), out, ScoreOptions(part_rows=2), ON_CPU)
        rows = scored(outs[0])
        assert [json.loads(line) for line in outs[1].read_text().splitlines()] == rows
        with outs[2].open(newline="") as file:
            cells = list(csv.DictReader(file))
        assert [cell["id"] for cell in cells] == list("abcde")
        assert json.loads(cells[0]["prediction_set"]) == rows[0]["prediction_set"]
        assert float(cells[0]["confidence"]) == rows[0]["confidence"]
        assert cells[1]["label"] == ""

    def test_table_without_rows_gives_one_empty_part(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in.csv").write_text("id,text\n")
        out = tmp_path / "out"
        report = score_tables(tiny_bundle, str(tmp_path / "in.csv"), out, None, ON_CPU)
        assert report["rows"] == 0
        assert scored(out / "part-00000.parquet") == []

    def test_broken_line_gets_an_error_with_its_line_number(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in.csv").write_text("id,text,audio\na,one,\nb,two\nc,three,\n")
        out = tmp_path / "out.jsonl"
        score_tables(tiny_bundle, str(tmp_path / "in.csv"), out, None, ON_CPU)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["error_code"] for row in rows] == [None, "invalid_request", None]
        assert rows[1]["error_message"] == "line 3 has 2 cells; the header has 3"

    def test_frames_and_renamed_columns_are_scored(
        self, frames_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in.jsonl").write_text('{"clip": ["no.png", "no.png"], "words": "one"}\n')
        options = ScoreOptions(columns={"text": "words"}, on_unreadable="absent")
        out = tmp_path / "out.jsonl"
        score_tables(frames_bundle, str(tmp_path / "in.jsonl"), out, options, ON_CPU)
        row = json.loads(out.read_text())
        assert (row["clip_present"], row["text_present"]) == (False, True)


class TestResume:
    def test_resumed_job_keeps_complete_parts_and_scores_the_rest(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        out, whole = tmp_path / "out", tmp_path / "whole"
        options = ScoreOptions(part_rows=2)
        for folder in (out, whole):
            score_tables(tiny_bundle, str(table), folder, options, ON_CPU)
        (out / "_SUCCESS.json").unlink()
        (out / "part-00001.parquet").unlink()
        (out / ".part-00002.parquet.x1").write_text("half")
        kept = (out / "part-00000.parquet").stat().st_mtime_ns
        # Without an option, a resumed job keeps its two rows per part.
        report = score_tables(tiny_bundle, str(table), out, None, ON_CPU)
        assert report["last_run"]["rows"] == 2
        assert report["errors"] == {"no_modality": 1, "unreadable": 2}
        assert (out / "part-00000.parquet").stat().st_mtime_ns == kept
        assert not (out / ".part-00002.parquet.x1").exists()
        names = [f"part-0000{n}.parquet" for n in range(3)]
        assert sorted(path.name for path in out.glob("*.parquet")) == names
        for name in names:
            assert (out / name).read_bytes() == (whole / name).read_bytes()

    def test_complete_job_is_not_scored_again(
        self, tiny_bundle: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for out in (tmp_path / "out", tmp_path / "out.jsonl"):
            first = score_tables(tiny_bundle, str(table), out, None, ON_CPU)
            assert score_tables(tiny_bundle, str(table), out, None, ON_CPU) == first
            assert "--overwrite scores it again" in capsys.readouterr().err

    @pytest.mark.parametrize("out", ["out", "out.jsonl"])
    def test_output_of_another_job_is_replaced_only_on_request(
        self, tiny_bundle: Path, free_names_bundle: Path, table: Path, tmp_path: Path, out: str
    ) -> None:
        path = tmp_path / out
        score_tables(tiny_bundle, str(table), path, None, ON_CPU)
        rejected = {
            "on_unreadable error, not absent": (tiny_bundle, ScoreOptions(on_unreadable="absent")),
            "part_rows 10000, not 2": (tiny_bundle, ScoreOptions(part_rows=2)),
            r"other keep \(sku\)": (tiny_bundle, ScoreOptions(keep={"sku": "sku"})),
            "bundle tiny@": (free_names_bundle, ScoreOptions(columns={"note": "text"})),
        }
        for message, (bundle, options) in rejected.items():
            with pytest.raises(UsageError, match=message):
                score_tables(bundle, str(table), path, options, ON_CPU)
        table.write_text(table.read_text() + "f,,six,6\n")
        with pytest.raises(UsageError, match=r"other tables \(.*in\.csv\)"):
            score_tables(tiny_bundle, str(table), path, None, ON_CPU)
        report = score_tables(tiny_bundle, str(table), path, None, ON_CPU, overwrite=True)
        assert report["rows"] == 6

    @pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
    def test_damaged_part_of_a_complete_job_is_scored_again(
        self, tiny_bundle: Path, table: Path, tmp_path: Path, damage: str
    ) -> None:
        out = tmp_path / "out"
        score_tables(tiny_bundle, str(table), out, ScoreOptions(part_rows=2), ON_CPU)
        part = out / "part-00001.parquet"
        content = part.read_bytes()
        part.unlink()
        if damage != "gone":
            cut = content[:100] if damage == "cut" else content[:40] + bytes(20) + content[60:]
            part.write_bytes(cut)
        report = score_tables(tiny_bundle, str(table), out, None, ON_CPU)
        assert report["last_run"]["rows"] == 2
        assert part.read_bytes() == content

    def test_damaged_report_is_written_again_or_rejected(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        first = score_tables(tiny_bundle, str(table), out, None, ON_CPU)
        (out / "_SUCCESS.json").write_text("{")
        assert score_tables(tiny_bundle, str(table), out, None, ON_CPU)["rows"] == first["rows"]
        single = tmp_path / "out.csv"
        score_tables(tiny_bundle, str(table), single, None, ON_CPU)
        (tmp_path / "out.csv.success.json").write_text("{")
        with pytest.raises(UsageError, match="damaged; add --overwrite"):
            score_tables(tiny_bundle, str(table), single, None, ON_CPU)

    def test_too_many_errors_stop_a_job_and_a_higher_limit_resumes_it(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        out, options = tmp_path / "out", ScoreOptions(part_rows=2)
        with pytest.raises(DimmlError, match="2 rows have errors, more than --max-errors 1"):
            score_tables(
                tiny_bundle, str(table), out, ScoreOptions(part_rows=3), ON_CPU, max_errors=1
            )
        assert (out / "part-00000.parquet").exists()
        assert not (out / "_SUCCESS.json").exists()
        with pytest.raises(UsageError, match="part_rows"):
            score_tables(tiny_bundle, str(table), out, options, ON_CPU)
        report = score_tables(tiny_bundle, str(table), out, None, ON_CPU, max_errors=3)
        assert report["rows"] == 5
        with pytest.raises(DimmlError, match="3 rows have errors"):
            score_tables(tiny_bundle, str(table), out, None, ON_CPU, max_errors=2)


class TestRejectedOutputs:
    @pytest.mark.parametrize("out", ["t.parquet", "sub/../t.parquet", "link.parquet"])
    def test_input_table_as_output_is_rejected(
        self, tiny_bundle: Path, tmp_path: Path, out: str
    ) -> None:
        (tmp_path / "sub").mkdir()
        table = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), table)
        (tmp_path / "link.parquet").symlink_to(table)
        before = table.read_bytes()
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="is the table itself"):
                score_tables(
                    tiny_bundle, str(table), tmp_path / out, None, ON_CPU, overwrite=overwrite
                )
        assert table.read_bytes() == before

    def test_output_folder_with_other_files_is_rejected(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"holds 'notes\.txt'"):
            score_tables(tiny_bundle, str(table), tmp_path / "out", None, ON_CPU)
        with pytest.raises(UsageError, match=r"holds 'notes\.txt'"):
            score_tables(tiny_bundle, str(table), tmp_path / "out", None, ON_CPU, overwrite=True)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]

    def test_output_file_of_another_program_is_kept(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "out.csv").write_text("mine")
        with pytest.raises(UsageError, match="exists"):
            score_tables(tiny_bundle, str(table), tmp_path / "out.csv", None, ON_CPU)
        assert (tmp_path / "out.csv").read_text() == "mine"

    def test_output_locked_by_another_process_is_rejected(
        self, tiny_bundle: Path, table: Path, tmp_path: Path
    ) -> None:
        with (
            locked_folder(tmp_path / "out", "writing", "another"),
            pytest.raises(UsageError, match="another process is writing"),
        ):
            score_tables(tiny_bundle, str(table), tmp_path / "out", None, ON_CPU)

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("out.txt", "named without a suffix"),
            ("in.csv/out", "is a file"),
        ],
    )
    def test_output_with_another_suffix_or_under_a_file_is_rejected(
        self, tiny_bundle: Path, table: Path, tmp_path: Path, out: str, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            score_tables(tiny_bundle, str(table), tmp_path / out, None, ON_CPU)

    @pytest.mark.parametrize("out", ["s3://bucket/out", "s3://bucket/out.csv", ""])
    def test_output_that_is_not_a_local_path_is_rejected(
        self, tiny_bundle: Path, table: Path, out: str
    ) -> None:
        with pytest.raises(UsageError, match="the output"):
            score_tables(tiny_bundle, str(table), Path(out), None, ON_CPU)

    def test_kept_column_with_the_name_of_a_score_must_be_renamed(
        self, tiny_bundle: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "in.csv").write_text("text,label\none,1\n")
        table = str(tmp_path / "in.csv")
        with pytest.raises(UsageError, match="--keep input_label=label"):
            score_tables(
                tiny_bundle, table, tmp_path / "out", ScoreOptions(keep={"label": "label"}), ON_CPU
            )
        options = ScoreOptions(keep={"truth": "label"})
        score_tables(tiny_bundle, table, tmp_path / "out.jsonl", options, ON_CPU)
        assert json.loads((tmp_path / "out.jsonl").read_text())["truth"] == "1"
