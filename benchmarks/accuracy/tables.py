"""Change the table of a data set: rows without labels, and tables in another folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dimml.files import new_file

KEPT_SHARE = 0.1
"""Share of the training rows that keep their label, their audio, or are kept at all."""
FILE_COLUMNS = ("audio", "image")

Rows = list[dict[str, Any]]
Change = Callable[[Rows, np.random.Generator], Rows]


def draw_rows(rows: Rows, generator: np.random.Generator, share: float = KEPT_SHARE) -> set[int]:
    """Draw a share of the rows of each class, and return their positions."""
    kept: list[int] = []
    labels = np.array([row["label"] for row in rows])
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        kept += positions[: round(share * len(positions))].tolist()
    return set(kept)


def few_labels(rows: Rows, generator: np.random.Generator) -> Rows:
    """Remove the label of all rows but `KEPT_SHARE` of each class."""
    kept = draw_rows(rows, generator)
    return [row if n in kept else {**row, "label": None} for n, row in enumerate(rows)]


def few_recordings(rows: Rows, generator: np.random.Generator, share: float = KEPT_SHARE) -> Rows:
    """Remove the audio of all rows but a share of each class."""
    kept = draw_rows(rows, generator, share)
    return [row if n in kept else {**row, "audio": None} for n, row in enumerate(rows)]


def read_rows(manifest: Path, split: str) -> Rows:
    """Return the rows of one split of a manifest, in order."""
    return [row for row in pq.read_table(manifest).to_pylist() if row["split"] == split]


def write_table(path: Path, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write a table whose files stay where they are.

    Args:
        path: The table to write.
        rows: Cells of text, all with the same columns.
        folder: The folder to which the paths of `FILE_COLUMNS` are relative.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Paths in a table are relative to its folder.
    up = os.path.relpath(folder.resolve(), path.parent.resolve())
    columns = {
        name: [
            f"{up}/{row[name]}" if name in FILE_COLUMNS and row[name] is not None else row[name]
            for row in rows
        ]
        for name in rows[0]
    }
    with new_file(path) as temporary:
        pq.write_table(
            pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()}), temporary
        )
