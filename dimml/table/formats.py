"""Read the records of Parquet, CSV and JSON lines in constant memory.

A line of CSV or JSON that cannot be read is a `BrokenRecord`, and the lines after it are read.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from dimml.errors import InputError, ManifestError
from dimml.samples import is_absent

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
BATCH_ROWS = 256

# A CSV cell may hold a whole text. The text modality has the limit that users can set.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A line that cannot be read, with its id where that can be read."""

    error: InputError
    id: str | None = None


Record = Mapping[str, Any] | BrokenRecord


def record_id(record: Record) -> str | None:
    """Return the id of a record, None where it has none that can be read."""
    identifier = record.id if isinstance(record, BrokenRecord) else record.get("id")
    return None if is_absent(identifier) else str(identifier)


def column_names(path: Path) -> Iterable[str]:
    """Check a table and return its column names; those of JSON lines are read row by row.

    Raises:
        ManifestError: If the table cannot be read, or two columns have the same name.
    """
    _check_table(path)
    if suffix(path) == ".parquet":
        with open_parquet(path) as file:
            return _distinct(file.schema_arrow.names, path)
    if suffix(path) == ".csv":
        with reading(path), _open_text(path) as file:
            return _csv_header(csv.reader(file, strict=True), path)
    return _json_keys(path)


def count_rows(path: Path) -> int:
    """Count the rows of a table; CSV and JSON lines are read for this."""
    if suffix(path) == ".parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    return sum(1 for _ in read_records(path))


def read_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a table in order, each as column name to value; blank lines are not rows.

    Raises:
        ManifestError: If the table cannot be read, or has a quote that is never closed.
    """
    with reading(path):
        if suffix(path) == ".parquet":
            for batch in parquet_batches(path):
                yield from plain_values(pa.table(batch)).to_pylist()
            return
        with _open_text(path) as file:
            yield from _csv_records(file, path) if suffix(path) == ".csv" else _json_records(file)


def parquet_batches(
    path: Path, columns: Sequence[str] | None = None, skip: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield some or all columns of a Parquet file in batches, without the first `skip` rows."""
    with open_parquet(path) as file:
        # Row groups that are skipped whole are not read.
        groups = list(range(file.metadata.num_row_groups))
        while groups and skip >= (rows := file.metadata.row_group(groups[0]).num_rows):
            groups, skip = groups[1:], skip - rows
        for batch in file.iter_batches(BATCH_ROWS, groups, columns):
            yield batch.slice(skip)
            skip = max(0, skip - len(batch))


def plain_values(table: pa.Table) -> pa.Table:
    """Return the table with dates and times as text, durations as integers and NaN as null.

    Python has no nanoseconds: pyarrow returns objects of pandas for them, or fails without pandas.
    JSON has no NaN.
    """
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if pa.types.is_duration(field.type):
            column = column.cast(pa.int64())
        elif pa.types.is_temporal(field.type):
            column = column.cast(pa.string())
        elif pa.types.is_floating(field.type) and not pa.types.is_float16(field.type):
            null = pa.scalar(None, field.type)
            column = pyarrow.compute.if_else(pyarrow.compute.is_nan(column), null, column)
        else:
            continue
        table = table.set_column(index, field.name, column)
    return table


def open_parquet(path: Any) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file at a `Path` or an object with its interface, or raise `ManifestError`."""
    try:
        return pyarrow.parquet.ParquetFile(path if isinstance(path, Path) else path.open("rb"))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} is not a Parquet file: {error}") from error


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Raise `ManifestError` for errors of the block, which reads the table at `path`."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def suffix(path: Path) -> str:
    """Return the suffix that names the format, in lower case."""
    return path.suffix.lower()


def _check_table(path: Path) -> None:
    if path.is_dir():
        raise ManifestError(f"{path} is a folder; name the table in it ({', '.join(SUFFIXES)})")
    if suffix(path) not in SUFFIXES:
        raise ManifestError(f"{path}: a table is one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ManifestError(f"no such table: {path}; name a file ({', '.join(SUFFIXES)})")
    if path.stat().st_size == 0:
        raise ManifestError(f"{path} is empty (0 bytes)")


def _distinct(names: Sequence[str], path: object) -> list[str]:
    # Columns without a name, as of an exported index, may be several: none is read.
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ManifestError(
            f"{path} has several columns named {', '.join(repeated)}; keep one of each"
        )
    return list(names)


def _open_text(path: Path) -> Any:
    # Bytes that are not UTF-8 become lone surrogates, which `_checked` finds line by line.
    return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")


def _csv_header(reader: Any, path: object) -> list[str]:
    try:
        return _distinct(next((names for names in reader if names), []), path)
    except csv.Error as error:
        raise ManifestError(f"{path}: its first line is not CSV: {error}") from error


def _csv_records(file: Any, path: object) -> Iterator[Record]:
    reader = csv.reader(file, strict=True)
    header = _csv_header(reader, path)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            if "end of data" in str(error):
                # The rows after the quote are all in one cell, so none of them can be read.
                raise ManifestError(
                    f"{path}, line {line}: a quote is opened and never closed"
                ) from error
            yield _broken(f"line {line} is not CSV: {error}")
            continue
        if values is None:
            return
        record = dict(zip(header, values, strict=False))
        if len(values) == len(header):
            yield _checked(record, line)
        elif values:
            counts = f"{len(values)} cells; the header has {len(header)}"
            yield _broken(f"line {line} has {counts}", record.get("id"))


def _json_records(file: Any) -> Iterator[Record]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            # The full text of a JSON error has a position that counts from this line.
            yield _broken(f"line {line} is not JSON: {getattr(error, 'msg', error)}")
            continue
        if isinstance(record, dict):
            yield _checked(record, line)
        else:
            yield _broken(f"line {line} is not a JSON object")


def _json_keys(path: Path) -> Iterator[str]:
    seen, first_error = set[str](), None
    for record in read_records(path):
        if isinstance(record, BrokenRecord):
            first_error = first_error or record.error
            continue
        new = [name for name in record if name not in seen]
        seen.update(new)
        yield from new
    if first_error and not seen:
        raise ManifestError(f"{path}: {first_error.message}; no line can be read")


def _checked(record: Mapping[str, Any], line: int) -> Record:
    for name, value in record.items():
        if not is_utf8(value):
            column = name.encode(errors="replace").decode()
            return _broken(f"line {line}: the cell of {column} is not UTF-8", record.get("id"))
    return record


def _broken(message: str, identifier: Any = None) -> BrokenRecord:
    readable_id = identifier if is_utf8(identifier) else None
    return BrokenRecord(InputError("invalid_request", message), readable_id)


def is_utf8(value: Any) -> bool:
    """Return whether UTF-8 can encode a value, which it cannot if it has lone surrogates."""
    # `str` would escape the surrogates in a list or an object.
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
