"""Write scores as JSON lines and CSV."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from dimml.table.formats import BATCH_ROWS, plain_values


def write_text(parts: Sequence[Path], path: Path, suffix: str) -> None:
    """Write the rows of Parquet files as JSON lines for the suffix `.jsonl`, else as CSV.

    Lists, structs and booleans are JSON in the cells of CSV; bytes are base64 in both formats.
    """
    names = pyarrow.parquet.read_schema(parts[0]).names
    with path.open("w", encoding="utf-8", newline="") as file:
        if suffix == ".jsonl":
            file.writelines(_json(row) + "\n" for row in _rows(parts))
            return
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([_cell(row[name]) for name in names] for row in _rows(parts))


def _rows(parts: Sequence[Path]) -> Iterator[Mapping[str, Any]]:
    for part in parts:
        for batch in pyarrow.parquet.ParquetFile(part).iter_batches(BATCH_ROWS):
            yield from plain_values(pa.table(batch)).to_pylist()


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict | bool):
        return _json(value)
    return _json_value(value) if isinstance(value, bytes) else value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_json_value)


def _json_value(value: Any) -> Any:
    # Kept columns may have types that JSON lacks.
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | time) else str(value)
