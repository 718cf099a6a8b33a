from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.accuracy import panel_sets
from benchmarks.accuracy.panel_data import half_of_recordings, pairs, shuffled_column
from benchmarks.accuracy.panel_sets import SETS, Sources, write_tables
from benchmarks.accuracy.tables import Rows, few_labels, few_recordings

SPLIT_ROWS = {"train": 3600, "validation": 1500, "test": 1500}


def digit_rows(split: str, number: int) -> Rows:
    """Rows as of the digits: each cell is missing in one row of ten, and names its digit."""
    generator = np.random.default_rng(0)
    rows = []
    for n in range(number):
        label = str(generator.integers(10))
        cells = {
            "audio": f"audio/{split}-{n}.wav",
            "image": f"image/{split}-{n}-{label}.png",
            "text": f"{label} {n}",
        }
        kept = {k: v if generator.random() > 0.1 else None for k, v in cells.items()}
        rows.append({"id": f"{split}-{n}", "split": split, "label": label, **kept})
    return rows


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """A small digits data set without its files, and an empty working folder."""
    monkeypatch.setattr(panel_sets, "WORK", tmp_path / "panel")
    folder = tmp_path / "digits"
    folder.mkdir()
    rows = [row for split, number in SPLIT_ROWS.items() for row in digit_rows(split, number)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")
    return Sources(digits=folder)


def table_of(name: str, sources: Sources) -> list[dict[str, Any]]:
    write_tables(name, sources, 1)
    return pq.read_table(panel_sets.table_path(name, 0)).to_pylist()


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("column", ["image", "text"])
def test_no_cell_of_a_pair_tells_the_label(column: str, repeats: int) -> None:
    rows = pairs(digit_rows("train", 3600), ("image", "text"), 90, repeats)
    counts = {
        label: Counter(row[column] for row in rows if row["label"] == label)
        for label in ("match", "mismatch")
    }
    assert len(rows) == 20 * 90 * repeats
    assert counts["match"] == counts["mismatch"]


def test_pairs_of_unequal_digits_are_equally_frequent() -> None:
    rows = pairs(digit_rows("train", 3600), ("image", "text"), 90)
    digits = Counter(
        (row["image"][-5], row["text"][0]) for row in rows if row["label"] == "mismatch"
    )
    assert len(digits) == 90
    assert set(digits.values()) == {10}
    assert all(r["image"][-5] == r["text"][0] for r in rows if r["label"] == "match")


def test_a_cell_meets_other_partners_in_each_round() -> None:
    rows = pairs(digit_rows("train", 3600), ("image", "text"), 90, 3)
    assert len({(row["image"], row["text"]) for row in rows}) == len(rows)


def test_pairs_need_enough_cells_of_each_digit() -> None:
    with pytest.raises(ValueError, match="fewer than 90 cells in the column image"):
        pairs(digit_rows("train", 300), ("image", "text"), 90)


@pytest.mark.parametrize("name", ["digits", "digits_few", "noise", "pairs"])
def test_no_picture_is_in_two_splits(name: str, sources: Sources) -> None:
    pictures: dict[str, set[str]] = {}
    for row in table_of(name, sources):
        if row["image"] is not None:
            pictures.setdefault(row["image"], set()).add(row["split"])
    assert pictures
    assert all(len(splits) == 1 for splits in pictures.values())


def test_paths_of_a_table_lead_to_the_files_of_its_source(sources: Sources) -> None:
    folder = panel_sets.table_path("digits", 0).parent
    paths = [row["image"] for row in table_of("digits", sources) if row["image"]]
    assert (folder / paths[0]).resolve().parent == sources.digits / "image"


def test_one_training_label_in_ten_is_kept(sources: Sources) -> None:
    rows = table_of("digits_few", sources)
    labelled = Counter(row["split"] for row in rows if row["label"] is not None)
    assert labelled["train"] == pytest.approx(120, abs=5)
    assert labelled["test"] == 500


def test_classes_keep_equal_shares_of_labels_and_recordings() -> None:
    rows = [{"label": str(n % 10), "audio": f"{n}.wav"} for n in range(1000)]
    generator = np.random.default_rng(0)
    labels = Counter(row["label"] for row in few_labels(rows, generator))
    assert labels.pop(None) == 900
    assert set(labels.values()) == {10}
    audio = Counter(r["label"] for r in few_recordings(rows, generator, 0.05) if r["audio"])
    assert set(audio.values()) == {5}


def test_shuffled_column_keeps_its_cells_and_gaps() -> None:
    rows = digit_rows("train", 2000)
    shuffled = shuffled_column(rows, "text", np.random.default_rng(0))
    assert Counter(r["text"] for r in shuffled) == Counter(r["text"] for r in rows)
    assert [r["text"] is None for r in shuffled] == [r["text"] is None for r in rows]
    assert [r["image"] for r in shuffled] == [r["image"] for r in rows]
    agreeing = [r["text"][0] == r["label"] for r in shuffled if r["text"]]
    assert np.mean(agreeing) == pytest.approx(0.1, abs=0.03)


def test_half_of_recordings_is_the_same_for_every_speaker() -> None:
    rows = [{"id": f"7_{speaker}_{n}"} for speaker in ("a", "b") for n in range(50)]
    kept = half_of_recordings(rows)
    assert len(kept) == 50
    assert {row["id"].split("_")[1] for row in kept[:25]} == {"a"}


def test_missing_folders_are_named_with_the_option(tmp_path: Path) -> None:
    empty = Sources(digits=tmp_path)
    assert "dimml data digits" in str(SETS["digits"].problem(empty))
    assert "--avmnist" in str(SETS["avmnist_5"].problem(empty))
    partial = Sources(avmnist=tmp_path)
    assert "fsdd/recordings is missing" in str(SETS["avmnist"].problem(partial))
    for name in ("fsdd/recordings", "mnist"):
        (tmp_path / name).mkdir(parents=True)
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / f"mnist/t10k-{kind}-ubyte.gz").touch()
    assert SETS["avmnist"].problem(partial) is None
    assert "--models" in str(SETS["avmnist_frozen"].problem(partial))
    models = Sources(avmnist=tmp_path, models=tmp_path)
    assert "whisper-base-encoder is missing" in str(SETS["pairs_frozen"].problem(models))
