from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dimml.bundle import Bundle
from dimml.errors import DimmlError, InputError
from dimml.machine import SOURCE_ROOT
from serving.offline import local
from serving.offline.inputs import Inputs, ScoreRow
from serving.offline.scorer import score_schema
from serving.offline.workspace import Job

KINDS = {"audio": "audio", "image": "image", "text": "text"}
HEAVY = {"torch", "transformers", "pytorch_lightning", "librosa", "numba", "train", "export"}


def job_of(bundle: Path, **changes: Any) -> Job:
    settings: dict[str, Any] = {
        "bundle": Bundle.load(bundle).id,
        "tables": {},
        "columns": {},
        "keep": {},
        "on_unreadable": "error",
        "probabilities": False,
        "provider": "cpu",
        "threads": 1,
        "part_rows": 4,
        "window_rows": 2,
    }
    return Job(**{**settings, **changes})


def test_scoring_process_loads_no_training_library(tiny_bundle: Path) -> None:
    code = f"""
import json, multiprocessing, sys
from serving.offline import local
from serving.offline.inputs import ScoreRow
from serving.offline.workspace import Job
job = Job.model_validate_json({job_of(tiny_bundle).model_dump_json()!r})
started = multiprocessing.get_context("spawn").Value("i", 0)
local._start_process({str(tiny_bundle)!r}, job, started, 1)
assert local._score_windows([[ScoreRow("a", {{"text": "seven"}})]])
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "onnxruntime" in modules
    assert modules & HEAVY == set()


def die_of_row_r5(windows: list[list[ScoreRow]]) -> bytes:
    rows = [row for window in windows for row in window]
    if any(row.id == "r5" and not isinstance(row.sample, InputError) for row in rows):
        os._exit(1)
    return SCORE(windows)


SCORE = local._score_windows


def test_row_that_kills_its_process_gets_an_error_alone(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "in.csv"
    table.write_text("id,text\n" + "".join(f"r{n},x\n" for n in range(12)))
    inputs = Inputs((str(table),), KINDS, {name: name for name in KINDS}, {})
    monkeypatch.setattr(local, "_score_windows", die_of_row_r5)
    engine = local.LocalEngine(tiny_bundle, 1, 1)
    parts = engine.score(inputs, job_of(tiny_bundle), score_schema(list(KINDS), ()), (), 12)
    results = pa.concat_tables([t for _, windows in parts for t in windows]).to_pylist()
    assert [row["id"] for row in results] == [f"r{n}" for n in range(12)]
    assert [row["id"] for row in results if row["error_code"] == "unreadable"] == ["r5"]
    assert sum(row["label"] is not None for row in results) == 11


def die(windows: list[list[ScoreRow]]) -> bytes:
    os._exit(1)


def test_processes_that_die_at_the_start_raise_an_error(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.csv").write_text("id,text\nr0,x\n")
    inputs = Inputs((str(tmp_path / "in.csv"),), KINDS, {name: name for name in KINDS}, {})
    monkeypatch.setattr(local, "_score_windows", die)
    engine = local.LocalEngine(tiny_bundle, 1, 1)
    parts = engine.score(inputs, job_of(tiny_bundle), score_schema(list(KINDS), ()), (), 1)
    with pytest.raises(DimmlError, match="die as they start"):
        [list(windows) for _, windows in parts]


def test_scores_do_not_depend_on_the_number_of_processes(tiny_bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("id,text\n" + "".join(f"r{n},seven {n}\n" for n in range(30)))
    inputs = Inputs((str(table),), KINDS, {name: name for name in KINDS}, {})
    results = []
    for workers in (1, 3):
        engine = local.LocalEngine(tiny_bundle, workers, 1)
        parts = engine.score(inputs, job_of(tiny_bundle), score_schema(list(KINDS), ()), {1}, 30)
        results.append([(number, pa.concat_tables(list(windows))) for number, windows in parts])
    assert [number for number, _ in results[0]] == [0, 2, 3, 4, 5, 6, 7]
    for (number, table_of_one), (other, table_of_three) in zip(*results, strict=True):
        assert number == other
        assert table_of_one.equals(table_of_three)
