from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dimml import Predictor
from dimml.errors import UsageError
from serving.batch.scoring import score, score_table


def test_rows_keep_their_order_and_a_bad_one_fails_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("id,audio,text\na,,seven\nb,missing.wav,\nc,,\nd,missing.wav,one\n")
    predictor = Predictor.load(tiny_bundle, "cpu")

    total, errors = score_table(predictor, table, tmp_path / "out.parquet", probabilities=True)

    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert (total, errors) == (4, 3)
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert [row["error_code"] for row in rows] == [None, "unreadable", "no_modality", "unreadable"]
    expected = predictor.predict({"text": "seven"})
    assert rows[0]["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)


def test_an_unreadable_cell_may_count_as_absent(tiny_bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("id,audio,text\nd,missing.wav,one\n")
    predictor = Predictor.load(tiny_bundle, "cpu")
    assert score_table(predictor, table, tmp_path / "o.parquet", "absent") == (1, 0)


def test_a_modality_without_a_column_is_said_once(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "in.jsonl"
    table.write_text('{"text": "one", "imag": "a.png"}\n' * 300)
    predictor = Predictor.load(tiny_bundle, "cpu")
    assert score_table(predictor, table, tmp_path / "o.parquet") == (300, 0)
    warnings = [line for line in capsys.readouterr().err.split("\n") if "warning" in line]
    assert warnings == [
        f"warning: {table} has no column for audio, image (did you mean imag?); its columns are "
        "text, imag; what has no column counts as absent"
    ]


@pytest.mark.parametrize("out", ["t.parquet", "sub/../t.parquet", "link.parquet"])
def test_the_table_is_not_overwritten_by_its_scores(
    tiny_bundle: Path, tmp_path: Path, out: str
) -> None:
    (tmp_path / "sub").mkdir()
    table = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), table)
    (tmp_path / "link.parquet").symlink_to(table)
    before = table.read_bytes()
    with pytest.raises(UsageError, match="is the table itself"):
        score(tiny_bundle, table, tmp_path / out, providers="cpu")
    assert table.read_bytes() == before
