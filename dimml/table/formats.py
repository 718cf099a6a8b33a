"""Read the records of Parquet, CSV and JSON lines in constant memory.

A line of CSV or JSON that cannot be read is a `BrokenRecord`, and the lines after it are read.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from dimml.errors import ManifestError
from dimml.table.delimited import DelimitedReader
from dimml.table.records import (
    BrokenRecord,
    Record,
    broken_record,
    checked_record,
    distinct_names,
)

DELIMITED = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
SUFFIXES = (".parquet", *DELIMITED, ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
BATCH_ROWS = 256

_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def column_names(path: Path) -> Iterable[str]:
    """Check a table and return its column names; those of JSON lines are read row by row.

    Raises:
        ManifestError: If the table cannot be read, or two columns have the same name.
    """
    _check_table(path)
    if suffix(path) == ".parquet":
        with open_parquet(path) as file:
            return distinct_names(file.schema_arrow.names, path)
    if suffix(path) in DELIMITED:
        with reading(path), _open_text(path) as file:
            return DelimitedReader(file, path).header
    return _json_keys(path)


def count_rows(path: Path) -> int:
    """Count the rows of a table; CSV and JSON lines are read for this."""
    if suffix(path) == ".parquet":
        with open_parquet(path) as file:
            return int(file.metadata.num_rows)
    return sum(1 for _ in read_records(path, keep_na=True))


def read_records(
    path: Path, used: Collection[str] | None = None, keep_na: bool = False
) -> Iterator[Record]:
    """Yield the rows of a table in order, each as column name to value; blank lines are not rows.

    Args:
        path: The table.
        used: The columns that are used, of which alone Parquet is read; None for all.
        keep_na: Whether CSV cells such as `NA` and `null` are text, rather than empty.

    Raises:
        ManifestError: If the table cannot be read, or has a quote that is never closed.
    """
    with reading(path):
        if suffix(path) == ".parquet":
            columns = None if used is None else [c for c in column_names(path) if c in used]
            for batch in parquet_batches(path, columns):
                yield from plain_values(pa.table(batch)).to_pylist()
            return
        with _open_text(path) as file:
            if suffix(path) in DELIMITED:
                yield from DelimitedReader(file, path).records(used, keep_na)
            else:
                yield from _json_records(file)


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
    except (pa.ArrowException, OSError, ValueError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def suffix(path: Path) -> str:
    """Return the suffix that names the format, in lower case, such as `.csv.gz`."""
    last = path.suffix.lower()
    return path.with_suffix("").suffix.lower() + last if last == ".gz" else last


def _check_table(path: Path) -> None:
    if path.is_dir():
        raise ManifestError(f"{path} is a folder; name the table in it ({', '.join(SUFFIXES)})")
    if suffix(path) not in SUFFIXES:
        raise ManifestError(f"{path}: a table is one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise ManifestError(f"no such table: {path}; name a file ({', '.join(SUFFIXES)})")
    if path.stat().st_size == 0:
        raise ManifestError(f"{path} is empty (0 bytes)")


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    """Open a text table, compressed or not.

    Raises:
        ManifestError: If the table has the byte order mark of another encoding than UTF-8.
    """
    with path.open("rb") as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if suffix(path).endswith(".gz") else raw
        if encoding := _other_encoding(file.read(64)):
            raise ManifestError(
                f"{path}, line 1: the table is in {encoding}; write it again in UTF-8, as "
                f"`iconv -f {encoding} -t UTF-8` or a spreadsheet's `CSV UTF-8` does"
            )
        file.seek(0)
        # Bytes that are not UTF-8 become lone surrogates, which `checked_record` finds.
        yield io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _other_encoding(start: bytes) -> str | None:
    """Return the encoding of a table that begins so, None for UTF-8 and everything else."""
    for mark, encoding in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            return encoding
    # Without a mark, every second byte of a header in the Latin alphabet is zero.
    for offset, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if start and not any(start[offset::2]):
            return encoding
    return None


def _json_records(file: TextIO) -> Iterator[Record]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            # The full text of a JSON error has a position that counts from this line.
            yield broken_record(f"line {line} is not JSON: {getattr(error, 'msg', error)}")
            continue
        if isinstance(record, dict):
            yield checked_record(record, line)
        else:
            yield broken_record(f"line {line} is not a JSON object")


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
