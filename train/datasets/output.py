"""The folder of a data set, and its manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dimml.errors import UsageError
from dimml.files import new_folder

MANIFEST = "manifest.parquet"
SPLITS = ("train", "validation", "test")

Cell = str | list[str] | None
Cells = dict[str, Cell]


def check_out(out: Path, seed: int) -> None:
    """Check the folder and the seed before the slow work begins.

    Raises:
        UsageError: If `out` is a file or a folder with content or inside a file, or the seed is
            negative.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} already exists; remove it, or choose another folder")
    if file := next((folder for folder in out.absolute().parents if folder.is_file()), None):
        raise UsageError(f"{file} is a file, where a folder is needed; choose another folder")
    if seed < 0:
        raise UsageError(f"the seed is {seed}; it must be 0 or more")


@contextmanager
def new_data_set(out: Path, modalities: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `out` if the block succeeds.

    Args:
        out: Folder to write, which does not exist or is empty.
        modalities: Names of the folders to create in it.
    """
    with new_folder(out, "empty", lambda _: False) as folder:
        for modality in modalities:
            (folder / modality).mkdir()
        yield folder


def write_manifest(
    folder: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Cell]]
) -> None:
    """Write the manifest of a data set; paths in its cells are relative to `folder`.

    A column of lists holds the frames of clips.
    """
    lists = {name for row in rows for name, cell in row.items() if isinstance(cell, list)}
    types = [pa.list_(pa.string()) if name in lists else pa.string() for name in columns]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / MANIFEST)
