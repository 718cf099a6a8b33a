"""The `score` command as a process: stopped, killed, started twice, and out of disk space."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest

from dimml.errors import DimmlError
from serving.offline.job import EngineOptions, ScoreOptions, score_tables
from tests.conftest import Dimml

Start = Callable[..., "subprocess.Popen[str]"]
ROWS, PART = 1_200, 100


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table in which one row of twenty names a recording that does not exist."""
    path = tmp_path / "in.csv"
    lines = [f"{n},{'no.wav' if n % 20 == 0 else ''},seven {n}" for n in range(ROWS)]
    path.write_text("id,audio,text\n" + "\n".join(lines) + "\n")
    return path


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


@pytest.mark.parametrize("on_unreadable", ["error", "absent"])
def test_job_killed_at_any_moment_resumes_to_the_same_bytes(
    command: Start, tiny_bundle: Path, table: Path, tmp_path: Path, on_unreadable: Any
) -> None:
    whole = tmp_path / "whole"
    score_options = ScoreOptions(part_rows=PART, on_unreadable=on_unreadable)
    score_tables(
        tiny_bundle, str(table), whole, score_options, EngineOptions(providers="cpu", workers=2)
    )
    out = tmp_path / "out"
    options = ("--part-rows", str(PART), "--on-unreadable", on_unreadable)
    random_source = random.Random(0)
    for part_count in (0, 1, 4):
        process = command(table, out, *options)
        wait_for(lambda: len(parts(out)) >= part_count)  # noqa: B023
        time.sleep(random_source.random() * 0.2)
        processes = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        # Worker processes end with their parent, even if the parent is killed.
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive
    last = command(table, out, *options)
    _, stderr = last.communicate(timeout=120)
    assert last.returncode == 0, stderr
    names = [path.name for path in parts(whole)]
    assert [path.name for path in parts(out)] == names
    assert len(names) == ROWS // PART
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert [p.name for p in out.iterdir() if p.name.startswith(".part")] == []


def test_sigterm_finishes_the_current_part_and_exits_3(
    command: Start, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores.jsonl"
    folder = tmp_path / "scores.jsonl.parts"
    process = command(table, out, "--part-rows", "100", "--json")
    wait_for(lambda: parts(folder))
    process.send_signal(signal.SIGTERM)
    output, stderr = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    written = parts(folder)
    assert 0 < len(written) < ROWS // PART
    assert all(pyarrow.parquet.read_metadata(path).num_rows == PART for path in written)
    assert not out.exists()
    events = [event["event"] for event in map(json.loads, output.splitlines())]
    assert events[0] == "start"
    assert events.count("part") == len(written)
    resumed = command(table, out, "--part-rows", "100")
    _, stderr = resumed.communicate(timeout=60)
    assert resumed.returncode == 0
    assert f"parts in {folder}: {len(written)}" in stderr
    assert len(out.read_text().splitlines()) == ROWS


def test_second_process_on_one_output_is_rejected(
    command: Start, table: Path, tmp_path: Path
) -> None:
    first = command(table, tmp_path / "out", "--part-rows", "100")
    wait_for(lambda: parts(tmp_path / "out"))
    first.send_signal(signal.SIGSTOP)
    second = command(table, tmp_path / "out", "--part-rows", "100")
    _, stderr = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another process is writing" in stderr
    assert first.wait(timeout=60) == 0


def test_table_that_vanishes_is_reported_and_complete_parts_are_kept(
    command: Start, table: Path, tmp_path: Path
) -> None:
    second = tmp_path / "jn.csv"
    second.write_text("id,text\na,one\n")
    out = tmp_path / "out"
    process = command(tmp_path / "?n.csv", out, "--part-rows", "100")
    wait_for(lambda: parts(out))
    second.rename(tmp_path / "away")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "jn.csv" in stderr
    assert "Traceback" not in stderr
    (tmp_path / "away").rename(second)
    process = command(tmp_path / "?n.csv", out, "--part-rows", "100")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "going on" in stderr


def test_full_disk_is_reported_and_complete_parts_are_kept(
    tiny_bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, score_options = tmp_path / "out", ScoreOptions(part_rows=400)
    engine = EngineOptions(providers="cpu", workers=1)
    write = pyarrow.parquet.write_table

    def fail(content: Any, path: Path, **options: Any) -> None:
        if "part-00001" in str(path):
            raise OSError(28, os.strerror(28), str(path))
        write(content, path, **options)

    monkeypatch.setattr(pyarrow.parquet, "write_table", fail)
    with pytest.raises(
        DimmlError, match=r"No space left.*free some space and run the same command"
    ):
        score_tables(tiny_bundle, str(table), out, score_options, engine)
    monkeypatch.undo()
    assert [path.name for path in parts(out)] == ["part-00000.parquet"]
    assert score_tables(tiny_bundle, str(table), out, score_options, engine)["rows"] == ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part-rows", "0"], "Invalid value for '--part-rows'"),
        (["--on-unreadable", "skip"], "'skip' is not one of 'error', 'absent'"),
        (["--column", "audio"], "expected NAME=COLUMN"),
        (["--column", "video=x"], "no modality 'video'"),
        (["--engine", "spark"], "'spark' is not one of 'local', 'ray'"),
        (["--gpus", "1"], "go with --engine ray"),
        (["--keep", "id"], "id is a column of the scores"),
        (["--keep", "nothing"], "no column for nothing"),
    ],
)
def test_invalid_option_is_rejected_with_its_reason(
    dimml: Dimml,
    tiny_bundle: Path,
    table: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    out = tmp_path / "out"
    code, _, err = dimml("score", tiny_bundle, table, out, *arguments, "--providers", "cpu")
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()
