"""The command as a process: stopped, killed, doubled, and out of room."""

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
from serving.offline import workspace
from serving.offline.job import Machine, Wanted, score_tables

Start = Callable[..., "subprocess.Popen[str]"]
ROWS, PART = 1_200, 100


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Of a row in twenty the recording is missing."""
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
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    command: Start, tiny_bundle: Path, table: Path, tmp_path: Path, on_unreadable: Any
) -> None:
    whole = tmp_path / "whole"
    wanted = Wanted(part_rows=PART, on_unreadable=on_unreadable)
    score_tables(tiny_bundle, str(table), whole, wanted, Machine(providers="cpu", workers=2))
    out = tmp_path / "out"
    options = ("--part-rows", str(PART), "--on-unreadable", on_unreadable)
    chosen = random.Random(0)
    for wanted_parts in (0, 1, 4):
        process = command(table, out, *options)
        wait_for(lambda: len(parts(out)) >= wanted_parts)  # noqa: B023
        time.sleep(chosen.random() * 0.2)
        processes = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        # Those that it started do not outlive it.
        _, alive = psutil.wait_procs(processes, timeout=10)
        assert not alive
    finishing = command(table, out, *options)
    _, said = finishing.communicate(timeout=120)
    assert finishing.returncode == 0, said
    names = [path.name for path in parts(whole)]
    assert [path.name for path in parts(out)] == names
    assert len(names) == ROWS // PART
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert [p.name for p in out.iterdir() if p.name.startswith(".part")] == []


def test_sigterm_finishes_the_part_and_exits_3(command: Start, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    folder = tmp_path / "scores.jsonl.parts"
    process = command(table, out, "--part-rows", "100", "--json")
    wait_for(lambda: parts(folder))
    process.send_signal(signal.SIGTERM)
    output, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the same command goes on" in said
    assert "Traceback" not in said
    there = parts(folder)
    assert 0 < len(there) < ROWS // PART
    assert all(pyarrow.parquet.read_metadata(path).num_rows == PART for path in there)
    assert not out.exists()
    names = [event["event"] for event in map(json.loads, output.splitlines())]
    assert names[0] == "start"
    assert names.count("part") == len(there)
    going_on = command(table, out, "--part-rows", "100")
    _, said = going_on.communicate(timeout=60)
    assert going_on.returncode == 0
    assert f"parts in {folder}: {len(there)}" in said
    assert len(out.read_text().splitlines()) == ROWS


def test_the_second_of_two_on_one_output_is_refused(
    command: Start, table: Path, tmp_path: Path
) -> None:
    first = command(table, tmp_path / "out", "--part-rows", "100")
    wait_for(lambda: parts(tmp_path / "out"))
    first.send_signal(signal.SIGSTOP)
    second = command(table, tmp_path / "out", "--part-rows", "100")
    _, said = second.communicate(timeout=60)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2
    assert "another process is writing" in said
    assert first.wait(timeout=60) == 0


def test_a_table_that_vanishes_is_said_and_what_is_done_is_kept(
    command: Start, table: Path, tmp_path: Path
) -> None:
    second = tmp_path / "jn.csv"
    second.write_text("id,text\na,one\n")
    out = tmp_path / "out"
    process = command(tmp_path / "?n.csv", out, "--part-rows", "100")
    wait_for(lambda: parts(out))
    second.rename(tmp_path / "away")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "jn.csv" in said
    assert "Traceback" not in said
    (tmp_path / "away").rename(second)
    process = command(tmp_path / "?n.csv", out, "--part-rows", "100")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "going on" in said


def test_a_full_disk_is_said_and_what_is_done_is_kept(
    tiny_bundle: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, wanted = tmp_path / "out", Wanted(part_rows=400)
    machine = Machine(providers="cpu", workers=1)
    write = pyarrow.parquet.write_table

    def fail(content: Any, path: Path, **options: Any) -> None:
        if "part-00001" in str(path):
            raise OSError(28, os.strerror(28), str(path))
        write(content, path, **options)

    monkeypatch.setattr(workspace.pyarrow.parquet, "write_table", fail)
    with pytest.raises(DimmlError, match=r"No space left.*free some and run the same command"):
        score_tables(tiny_bundle, str(table), out, wanted, machine)
    monkeypatch.undo()
    assert [path.name for path in parts(out)] == ["part-00000.parquet"]
    assert score_tables(tiny_bundle, str(table), out, wanted, machine)["rows"] == ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part-rows", "0"], "--part-rows is a number from 1, not 0"),
        (["--on-unreadable", "skip"], "--on-unreadable is error or absent"),
        (["--column", "audio"], "give NAME=COLUMN"),
        (["--column", "video=x"], "no modality 'video'"),
        (["--engine", "spark"], "--engine is local or ray"),
        (["--gpus", "1"], "go with --engine ray"),
        (["--keep", "id"], "id is a column of the scores"),
        (["--keep", "nothing"], "no column for nothing"),
    ],
)
def test_what_is_wrong_with_an_option_is_said(
    command: Start, table: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    process = command(table, tmp_path / "out", *arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in said
    assert not (tmp_path / "out").exists()
