"""Tables of samples: Parquet, CSV or JSON lines, read in constant memory.

A table (the data's "manifest") has one row per sample: `id`, `split`, `label` where they are
known, and one column per modality holding a path (relative to the table), text, bytes, or a list
of paths. An empty cell is an absent modality.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dimml.errors import ManifestError
from dimml.samples import is_absent

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        id: the `id` column, or the row's number from 0 where there is none.
        split: "train", "validation", "test", or None.
        label: None where it is not known.
        sample: modality name to value, ready for `Predictor.predict`.
    """

    id: str
    split: str | None
    label: str | None
    sample: Mapping[str, Any]


def read_rows(
    path: str | Path, kinds: Mapping[str, str], split: str | None = None
) -> Iterator[Row]:
    """The rows of a table, in order.

    Args:
        path: the table.
        kinds: modality name to kind; the modalities' columns have their names.
        split: keep the rows of this split only.

    Raises:
        ManifestError: it cannot be read, or none of its columns is a modality.
    """
    path = Path(path)
    if not any(name in kinds for name in column_names(path)):
        raise ManifestError(
            f"{path} has no column named after a modality ({', '.join(kinds)}); it has "
            f"{', '.join(column_names(path)) or 'none'}"
        )
    if split is not None and "split" not in column_names(path):
        raise ManifestError(f"{path} has no column `split`, so it has no {split} split")
    return _rows(path, kinds, split)


def column_names(path: Path) -> Iterable[str]:
    """The table's column names; those of JSON lines as far as they are asked for, row by row.

    Raises:
        ManifestError: the table cannot be read, or has a column twice.
    """
    check_table(path)
    if _suffix(path) not in (".parquet", ".csv"):
        return _json_keys(path)
    parquet = _suffix(path) == ".parquet"
    names = list(open_parquet(path).schema_arrow.names) if parquet else _csv_header(path)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ManifestError(
            f"{path} has several columns named {', '.join(repeated)}; keep one of each"
        )
    return names


@dataclass(frozen=True)
class Missing:
    """What a table lacks; false where it lacks nothing.

    Attributes:
        near: each missing column to one of the table's that may be meant.
        columns: those that the table has.
    """

    near: Mapping[str, str | None]
    columns: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.near)

    def message(self, path: object) -> str:
        """What to tell of it."""
        said = [
            name + (f" (did you mean {near}?)" if near else "") for name, near in self.near.items()
        ]
        return (
            f"{path} has no column for {', '.join(said)}; its columns are "
            f"{', '.join(self.columns) or 'none'}"
        )


def missing_columns(names: Iterable[str], wanted: Iterable[str]) -> Missing:
    """Those of `wanted` that are not among the names, which are read as far as that takes."""
    missing = dict.fromkeys(wanted)
    seen = list[str]()
    for name in names if missing else ():
        seen.append(name)
        missing.pop(name, None)
        if not missing:
            break
    free = {name.lower(): name for name in seen if name not in ("id", "split", "label", *missing)}
    near = {name: difflib.get_close_matches(name, free, n=1) for name in missing}
    return Missing({name: free[close[0]] if close else None for name, close in near.items()}, seen)


def count_rows(path: str | Path) -> int | None:
    """How many rows a table has, where that is known without reading it."""
    path = Path(path)
    return open_parquet(path).metadata.num_rows if _suffix(path) == ".parquet" else None


def _rows(path: Path, kinds: Mapping[str, str], split: str | None) -> Iterator[Row]:
    for number, record in enumerate(_records(path)):
        if split is not None and record.get("split") != split:
            continue
        identifier = record.get("id")
        yield Row(
            id=str(number) if is_absent(identifier) else str(identifier),
            split=_text(record.get("split")),
            label=_text(record.get("label")),
            sample={
                name: cell(record.get(name), kind, path.parent) for name, kind in kinds.items()
            },
        )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if _suffix(path) == ".parquet":
        batches: Iterable[pa.RecordBatch] = open_parquet(path).iter_batches(_BATCH_ROWS)
    elif _suffix(path) == ".csv":
        batches = _csv_batches(path)
    else:
        yield from _json_lines(path)
        return
    try:
        for batch in batches:
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


def cell(value: Any, kind: str, folder: Path) -> Any:
    """A cell as `Sample` takes it: a string of a modality that is no text is a path.

    A struct of `bytes` and `path`, as Hugging Face data sets write it, is the one or the other.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if is_absent(value) or value == b"":
        return None
    if kind == "text":
        return value if isinstance(value, str | bytes) else str(value)
    if isinstance(value, str):
        return folder / value
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [cell(item, kind, folder) for item in value]
    return value


def _text(value: Any) -> str | None:
    return None if is_absent(value) else str(value)


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def check_table(path: Path) -> None:
    """Refuses what cannot be a table.

    Raises:
        ManifestError: it is missing, a folder, empty or of another format.
    """
    if path.is_dir():
        raise ManifestError(f"{path} is a folder; name the table in it ({', '.join(SUFFIXES)})")
    if _suffix(path) not in SUFFIXES:
        raise ManifestError(f"{path}: a table is one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ManifestError(f"no such table: {path}; name a file ({', '.join(SUFFIXES)})")
    if path.stat().st_size == 0:
        raise ManifestError(f"{path} is empty (0 bytes)")


def open_parquet(path: Any) -> pyarrow.parquet.ParquetFile:
    """A Parquet file; `path` is a `Path` or what behaves as one.

    Raises:
        ManifestError: it is none.
    """
    try:
        return pyarrow.parquet.ParquetFile(path if isinstance(path, Path) else path.open("rb"))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} is not a Parquet file: {error}") from error


def _csv_header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{path} is not a CSV file in UTF-8: {error}; write it again in UTF-8"
        ) from error


def _csv_batches(path: Path) -> Iterator[pa.RecordBatch]:
    # A label "007" or a text "12" must stay as it is written.
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in _csv_header(path)},
        null_values=[""],
        strings_can_be_null=True,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    try:
        yield from pyarrow.csv.open_csv(path, convert_options=convert, parse_options=parse)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


def _json_keys(path: Path) -> Iterator[str]:
    """Each key once, when the first row that has it is read."""
    seen: set[str] = set()
    for record in _json_lines(path):
        new = [name for name in record if name not in seen]
        seen.update(new)
        yield from new


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json_object(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not in UTF-8: {error}; write it again in UTF-8") from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        # The error's own text gives its place in the line as a place in the file.
        reason = getattr(error, "msg", error)
        raise ManifestError(f"{where}: not JSON ({reason}); expected an object a line") from error
    if not isinstance(record, dict):
        raise ManifestError(f"{where}: expected a JSON object, got {type(record).__name__}")
    return record
