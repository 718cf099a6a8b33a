"""The input tables and the command that the offline benchmarks share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet


def write_table(path: Path, samples: Iterable[Mapping[str, Any]], rows: int) -> None:
    """Write the first `rows` samples as a Parquet table with ids from 0."""
    records = [
        {"id": str(row), **{n: None if v is None else str(v) for n, v in sample.items()}}
        for row, sample in enumerate(islice(samples, rows))
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)


def score_command(bundle: Path, table: Path, *options: str) -> list[str]:
    """Return the command `dimml score` for the CPU; the caller appends the output folder."""
    command = [sys.executable, "-m", "dimml", "score", "--providers", "cpu", *options]
    return [*command, str(bundle), str(table)]


def read_score_report(out: Path) -> dict[str, Any]:
    """Return the report that `dimml score` writes when it has finished."""
    report: dict[str, Any] = json.loads((out / "_SUCCESS.json").read_text())
    return report
