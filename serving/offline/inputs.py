"""Read the tables of a scoring job, of any format, as rows in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from dimml.errors import InputError, ManifestError, UsageError
from dimml.samples import Sample
from dimml.table import formats
from dimml.table.cells import cell_text, modality_value
from dimml.table.formats import column_names, read_records, suffix
from dimml.table.records import BrokenRecord, Record
from dimml.table.rows import missing_columns
from serving.offline.remote import RemoteFile, is_url, open_path


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row to score.

    Attributes:
        id: The row's id; None where the table has ids and this one cannot be read.
        sample: The sample to predict, or the error of a row that cannot be read.
    """

    id: str | None
    sample: Sample | InputError


@dataclass(frozen=True)
class RowWindow:
    """Rows that are computed together, which are the same for every engine and number of processes.

    Attributes:
        part: Number of the output part that the rows belong to.
        rows: The rows, in order.
        kept: The input columns that the output carries.
    """

    part: int
    rows: Sequence[ScoreRow]
    kept: pa.Table


@dataclass(frozen=True)
class Inputs:
    """The tables of a job, one after the other.

    Attributes:
        tables: Paths, or URLs of allowed schemes.
        kinds: Modality to kind.
        columns: Modality to the column that holds it.
        keep: Name of a column in the output to its name in the tables.
        schemes: URL schemes that may be read.
        id_column: The column of ids.
        keep_na: See `read_records`.
    """

    tables: tuple[str, ...]
    kinds: Mapping[str, str]
    columns: Mapping[str, str]
    keep: Mapping[str, str]
    schemes: tuple[str, ...] = ()
    id_column: str = "id"
    keep_na: bool = False

    def check(self, named: Collection[str] = ()) -> str | None:
        """Check the columns of the tables, and return a warning of modalities without a column.

        Args:
            named: Modalities whose column the user named, which no table may lack.

        Raises:
            ManifestError: If a table cannot be read, or has no column of a modality.
            UsageError: If a column that the user named is missing.
        """
        warning = None
        named = {self.columns[name] for name in named}
        for table in self.tables:
            path = self._path(table)
            if missing := missing_columns(column_names(path), self.keep.values()):
                raise UsageError(f"--keep: {missing.message(table)}")
            missing = missing_columns(column_names(path), self.columns.values())
            if named & missing.suggestions.keys():
                raise UsageError(f"--column: {missing.message(table)}")
            if missing.suggestions.keys() == set(self.columns.values()):
                raise ManifestError(
                    f"{missing.message(table)}; name the columns of modalities with "
                    "--column MODALITY=COLUMN"
                )
            if missing:
                warning = f"{missing.message(table)}; a modality without a column counts as absent"
        self.kept_schema()
        return warning

    def kept_schema(self) -> pa.Schema:
        """Return the columns that the output carries; those of CSV and JSON lines are text.

        Raises:
            UsageError: If two tables disagree.
        """
        schema: pa.Schema | None = None
        for table in self.tables if self.keep else ():
            kept = self._kept_schema_of(self._path(table))
            if schema is not None and not schema.equals(kept):
                raise UsageError(
                    f"--keep: the columns of {table} are {_types(kept)}, those of the tables "
                    f"before it {_types(schema)}; they must agree"
                )
            schema = kept
        return schema or pa.schema([])

    def _kept_schema_of(self, path: Path) -> pa.Schema:
        if suffix(path) != ".parquet":
            return pa.schema([(name, pa.string()) for name in self.keep])
        with formats.open_parquet(path) as file:
            types = file.schema_arrow
        return pa.schema([(name, types.field(column).type) for name, column in self.keep.items()])

    def count(self) -> int:
        """Count the rows of all tables; CSV and JSON lines are read for this."""
        return sum(formats.count_rows(self._path(table)) for table in self.tables)

    def windows(
        self,
        part_rows: int,
        window_rows: int,
        *,
        start: int = 0,
        stop: int | None = None,
        done: Collection[int] = (),
    ) -> Iterator[RowWindow]:
        """Yield the windows of the parts from `start` up to `stop` that are not done.

        Args:
            part_rows: Rows of a part; the last part may have fewer.
            window_rows: Rows of a window; the last window of a part may have fewer.
            start: Number of the first part.
            stop: Number of the part after the last; None for all parts.
            done: Numbers of the parts to leave out.
        """
        part, rows, kept = start, list[ScoreRow](), list[pa.Table]()
        left = part_rows
        for batch_rows, batch_kept in self._batches(start * part_rows):
            rows, kept = [*rows, *batch_rows], [*kept, batch_kept]
            while len(rows) >= (size := min(window_rows, left)):
                table = pa.concat_tables(kept)
                if part not in done:
                    yield RowWindow(part, rows[:size], table.slice(0, size))
                rows, kept = rows[size:], [table.slice(size)]
                left -= size
                if left == 0:
                    part, left = part + 1, part_rows
                    if part == stop:
                        return
        if rows and part not in done:
            yield RowWindow(part, rows, pa.concat_tables(kept))

    def _batches(self, skip: int) -> Iterator[tuple[list[ScoreRow], pa.Table]]:
        """Yield batches of rows and their kept columns, without the first `skip` rows."""
        schema, number = self.kept_schema(), skip
        for table in self.tables:
            path = self._path(table)
            if skip and skip >= (table_rows := formats.count_rows(path)):
                skip -= table_rows
                continue
            has_ids = self._has_ids(path)
            locate = partial(self._locate, table)
            for records, kept in self._records(path, skip):
                rows = [
                    self._row(record, locate, None if has_ids else str(number + i))
                    for i, record in enumerate(records)
                ]
                yield rows, pa.table(kept, schema=schema)
                number += len(records)
            skip = 0

    def _records(self, path: Path, skip: int) -> Iterator[tuple[Sequence[Record], list[Any]]]:
        if suffix(path) == ".parquet":
            names = list(column_names(path))
            used = [column for column in self._used_columns() if column in names]
            columns = list(dict.fromkeys((*used, *self.keep.values())))
            with formats.reading(path):
                for batch in formats.parquet_batches(path, columns, skip):
                    kept = [batch.column(name) for name in self.keep.values()]
                    yield formats.plain_values(pa.table(batch.select(used))).to_pylist(), kept
            return
        lines = islice(read_records(path, self._used_columns(), self.keep_na), skip, None)
        while records := list(islice(lines, formats.BATCH_ROWS)):
            texts = [[_kept_text(r, column) for r in records] for column in self.keep.values()]
            yield records, [pa.array(text, pa.string()) for text in texts]

    def _used_columns(self) -> list[str]:
        return list(dict.fromkeys((self.id_column, *self.columns.values())))

    def _has_ids(self, path: Path) -> bool:
        if suffix(path) in (".parquet", *formats.DELIMITED):
            return self.id_column in column_names(path)
        records = (r for r in read_records(path) if not isinstance(r, BrokenRecord))
        return self.id_column in next(records, {})

    def _row(self, record: Record, locate: Callable[[str], Any], number: str | None) -> ScoreRow:
        """Return the row of a record; without a number, its id is in the record."""
        if isinstance(record, BrokenRecord):
            return ScoreRow(record.id if number is None else number, record.error)
        identifier = number
        try:
            if number is None:
                identifier = cell_text(record.get(self.id_column), self.id_column)
            sample = {
                name: modality_value(name, record.get(self.columns[name]), kind, locate)
                for name, kind in self.kinds.items()
            }
        except InputError as error:
            return ScoreRow(identifier, error)
        return ScoreRow(identifier, sample)

    def _locate(self, table: str, value: str) -> str | RemoteFile:
        """Return the file that a cell names, relative to its table."""
        if is_url(value):
            return RemoteFile(value, self.schemes)
        if is_url(table):
            return RemoteFile(f"{table.rpartition('/')[0]}/{value}", self.schemes)
        # A string is pickled for another process in a fraction of the time of a `Path`.
        return os.path.join(os.path.dirname(table), value)

    def _path(self, table: str) -> Any:
        return open_path(table, self.schemes)


def _kept_text(record: Record, column: str) -> str | None:
    value = None if isinstance(record, BrokenRecord) else record.get(column)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
