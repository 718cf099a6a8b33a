"""The Ray engine, on a cluster of several nodes that run on this machine."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest

from serving.offline.job import EngineOptions, ScoreOptions, score_tables

pytest.importorskip("ray", reason="needs the extra `ray`")

ROWS, PART = 3_000, 100


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    lines = [f"{n},{'no.wav' if n % 20 == 0 else ''},seven {n % 97},s{n}" for n in range(ROWS)]
    path.write_text("id,audio,text,sku\n" + "\n".join(lines) + "\n")
    return path


def rows(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("part-*.parquet"))
    return [row for path in paths for row in pyarrow.parquet.read_table(path).to_pylist()]


def wait_for(condition: Callable[[], Any], process: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def actors() -> list[psutil.Process]:
    """Return the processes of the actors."""
    return [p for p in psutil.process_iter() if "MapWorker(MapBatches(PartScorer))" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_ray_job_survives_lost_actor_and_node_and_agrees_with_local_engine(
    cluster: Any, command: Any, tiny_bundle: Path, table: Path, tmp_path: Path
) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    out, options = tmp_path / "out", ("--part-rows", str(PART), "--keep", "sku", "--json")
    on_ray = ("--engine", "ray", "--ray-address", cluster.address)
    process = command(table, out, *options, *on_ray)
    wait_for(lambda: list(out.glob("part-*.parquet")), process)
    actors()[0].send_signal(signal.SIGKILL)
    done = len(list(out.glob("part-*.parquet")))
    wait_for(lambda: len(list(out.glob("part-*.parquet"))) > done, process)
    cluster.remove_node(nodes[1], allow_graceful=False)
    assert len(list(out.glob("part-*.parquet"))) < ROWS // PART
    output, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert json.loads(output.splitlines()[-1])["event"] == "done"

    local = tmp_path / "local"
    score_options = ScoreOptions(part_rows=PART, keep={"sku": "sku"})
    score_tables(
        tiny_bundle, str(table), local, score_options, EngineOptions(providers="cpu", workers=2)
    )
    expected = rows(local)
    scored = rows(out)
    assert len(scored) == len(expected) == ROWS
    for row, other in zip(scored, expected, strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                value = pytest.approx(value, abs=1e-5)
            assert row[name] == value

    # After a loss of parts, the same command scores only these parts.
    (out / "_SUCCESS.json").unlink()
    for number in (3, 17):
        (out / f"part-{number:05d}.parquet").unlink()
    process = command(table, out, *options, *on_ray)
    output, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert sum('"event": "part"' in line for line in output.splitlines()) == 2
    assert rows(out) == scored


def test_address_without_a_cluster_is_rejected(command: Any, table: Path, tmp_path: Path) -> None:
    process = command(table, tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:1")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no Ray cluster at 127.0.0.1:1" in stderr
    assert "Traceback" not in stderr
