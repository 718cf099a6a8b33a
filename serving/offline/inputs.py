"""What is scored: one table or many, as rows in order, whatever format each has."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from dimml.errors import InputError, ManifestError, UsageError
from dimml.samples import Sample, is_absent
from dimml.table import cell, check_table, column_names, missing_columns, open_parquet
from serving.offline.lines import (
    Broken,
    Record,
    checked,
    csv_records,
    id_of,
    json_records,
    read_header,
)
from serving.offline.remote import RemoteFile, is_url, open_path, parent_url
from serving.offline.text import plain

READ_ROWS = 256


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One row to score: its id, and its sample or why it has none.

    Attributes:
        id: None where the table has ids and this row's cannot be read.
        sample: what is predicted.
    """

    id: str | None
    sample: Sample | InputError


@dataclass(frozen=True)
class Window:
    """Rows that are computed together; the windows of a job are the same however it is run.

    Attributes:
        part: number of the output part that they belong to.
        rows: the rows, in order.
        kept: their input columns that the output carries.
    """

    part: int
    rows: Sequence[ScoreRow]
    kept: pa.Table


@dataclass(frozen=True)
class Inputs:
    """The tables of a job, one after the other.

    Attributes:
        tables: paths, or URLs of allowed schemes.
        kinds: modality to kind.
        columns: modality to the column that holds it.
        keep: the output's name of a column to its name in the tables.
        schemes: URL schemes that may be read.
    """

    tables: tuple[str, ...]
    kinds: Mapping[str, str]
    columns: Mapping[str, str]
    keep: Mapping[str, str]
    schemes: tuple[str, ...] = ()

    def check(self) -> str | None:
        """Refuses tables without what is asked of them.

        Returns:
            A warning of modalities that have no column, and so count as absent.

        Raises:
            ManifestError: a table cannot be read, or no column is a modality.
            UsageError: a column that was named is not there.
        """
        warning = None
        for table in self.tables:
            if missing := missing_columns(self._names(table), self.keep.values()):
                raise UsageError(f"--keep: {missing.message(table)}")
            missing = missing_columns(self._names(table), self.columns.values())
            if any(
                column in missing.near for name, column in self.columns.items() if name != column
            ):
                raise UsageError(f"--column: {missing.message(table)}")
            if missing.near.keys() == set(self.columns.values()):
                raise ManifestError(
                    f"{missing.message(table)}; name those of modalities with "
                    "--column MODALITY=COLUMN"
                )
            if missing:
                warning = f"{missing.message(table)}; what has no column counts as absent"
        self.kept_schema()
        return warning

    def _names(self, table: str) -> Iterator[str]:
        """The columns of a table, those of JSON lines as far as they are asked for."""
        path = open_path(table, self.schemes)
        check_table(path)
        if _suffix(table) == ".parquet":
            yield from column_names(path)
            return
        if _suffix(table) == ".csv":
            with self._open(table) as file:
                yield from read_header(csv.reader(file, strict=True), table)
            return
        seen = set[str]()
        for record in self._lines(table):
            names = [] if isinstance(record, Broken) else [n for n in record if n not in seen]
            seen.update(names)
            yield from names

    def kept_schema(self) -> pa.Schema:
        """Names and types of the columns that the output carries; text where the format has none.

        Raises:
            UsageError: two tables disagree.
        """
        schema: pa.Schema | None = None
        for table in self.tables if self.keep else ():
            found = pa.schema(list(self._kept_fields(table)))
            if schema is not None and not schema.equals(found):
                raise UsageError(
                    f"--keep: the columns of {table} are {_types(found)}, those of the tables "
                    f"before it {_types(schema)}; they must agree"
                )
            schema = found
        return schema or pa.schema([])

    def _kept_fields(self, table: str) -> Iterator[pa.Field]:
        types = pa.schema([])
        if _suffix(table) == ".parquet":
            with open_parquet(open_path(table, self.schemes)) as file:
                types = file.schema_arrow
        for name, column in self.keep.items():
            known = types.get_field_index(column) >= 0
            yield pa.field(name, types.field(column).type if known else pa.string())

    def count(self) -> int:
        """How many rows there are; tables that do not say so are read through.

        Raises:
            ManifestError: a table cannot be read.
        """
        return sum(self._rows_of(table) for table in self.tables)

    def windows(
        self,
        part_rows: int,
        window_rows: int,
        *,
        start: int = 0,
        stop: int | None = None,
        done: Collection[int] = (),
    ) -> Iterator[Window]:
        """The windows of the parts from `start` up to `stop`, less those that are done.

        Args:
            part_rows: rows of a part; the last one may have fewer.
            window_rows: rows of a window, which ends with its part at the latest.
            start: number of the first part.
            stop: number of the part after the last; None for all there are.
            done: numbers of parts to leave out.

        Raises:
            ManifestError: a table cannot be read.
        """
        schema = self.kept_schema()
        part, rows, kept = start, list[ScoreRow](), list[pa.Table]()
        left = part_rows
        for chunk_rows, chunk_kept in self._chunks(start * part_rows, schema):
            rows, kept = [*rows, *chunk_rows], [*kept, chunk_kept]
            while len(rows) >= (size := min(window_rows, left)):
                table = pa.concat_tables(kept)
                if part not in done:
                    yield Window(part, rows[:size], table.slice(0, size))
                rows, kept = rows[size:], [table.slice(size)]
                left -= size
                if left == 0:
                    part, left = part + 1, part_rows
                    if part == stop:
                        return
        if rows and part not in done:
            yield Window(part, rows, pa.concat_tables(kept))

    def _chunks(self, skip: int, schema: pa.Schema) -> Iterator[tuple[list[ScoreRow], pa.Table]]:
        """Rows by the hundreds, with what is kept of them; the first `skip` rows are left out."""
        number = skip
        for table in self.tables:
            if skip and skip >= (found := self._rows_of(table)):
                skip -= found
                continue
            numbered = not self._has_ids(table)
            for records, kept in self._records(table, skip, schema):
                rows = [
                    ScoreRow(str(number + i) if numbered else id_of(r), self._sample(r, table))
                    for i, r in enumerate(records)
                ]
                yield rows, kept
                number += len(records)
            skip = 0

    def _has_ids(self, table: str) -> bool:
        if _suffix(table) in (".parquet", ".csv"):
            return "id" in self._names(table)
        records = (record for record in self._lines(table) if not isinstance(record, Broken))
        return "id" in next(records, {})

    def _sample(self, record: Record, table: str) -> Sample | InputError:
        if isinstance(record, Broken):
            return record.error
        return {
            name: self._cell(record.get(self.columns[name]), kind, table)
            for name, kind in self.kinds.items()
        }

    def _cell(self, value: Any, kind: str, table: str) -> Any:
        if isinstance(value, Mapping) and value.get("bytes") is None:
            value = value.get("path")
        if isinstance(value, list) and kind != "text":
            return None if is_absent(value) else [self._cell(v, kind, table) for v in value]
        if isinstance(value, str) and kind != "text" and not is_absent(value):
            if is_url(value):
                return RemoteFile(value, self.schemes)
            if is_url(table):
                return RemoteFile(f"{parent_url(table)}/{value}", self.schemes)
            # A string goes to another process in a fraction of the time of a `Path`.
            return os.path.join(os.path.dirname(table), value)
        return cell(value, kind, Path(table).parent)

    def _rows_of(self, table: str) -> int:
        if _suffix(table) == ".parquet":
            with open_parquet(open_path(table, self.schemes)) as file:
                return int(file.metadata.num_rows)
        return sum(1 for _ in self._lines(table))

    def _records(
        self, table: str, skip: int, schema: pa.Schema
    ) -> Iterator[tuple[list[Any], pa.Table]]:
        if _suffix(table) == ".parquet":
            yield from self._parquet_records(table, skip, schema)
            return
        lines = self._lines(table)
        for _ in islice(lines, skip):
            pass
        while records := list(islice(lines, READ_ROWS)):
            columns = [
                pa.array([_kept_text(r, column) for r in records], pa.string())
                for column in self.keep.values()
            ]
            yield records, _table(columns, schema, len(records))

    def _parquet_records(
        self, table: str, skip: int, schema: pa.Schema
    ) -> Iterator[tuple[list[Any], pa.Table]]:
        with open_parquet(open_path(table, self.schemes)) as file:
            names = set(file.schema_arrow.names)
            wanted = [c for c in dict.fromkeys(("id", *self.columns.values())) if c in names]
            groups, skip = _groups_after(file, skip)
            columns = list(dict.fromkeys((*wanted, *self.keep.values())))
            try:
                for batch in file.iter_batches(READ_ROWS, groups, columns):
                    batch, skip = batch.slice(skip), max(0, skip - len(batch))
                    kept = [batch.column(name) for name in self.keep.values()]
                    records = plain(pa.table(batch.select(wanted))).to_pylist()
                    yield records, _table(kept, schema, len(batch))
            except (pa.ArrowException, OSError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ManifestError(f"{table} cannot be read: {reason}") from error

    def _lines(self, table: str) -> Iterator[Record]:
        """Records of a CSV or JSON lines table; one that cannot be read fails alone."""
        try:
            with self._open(table) as file:
                read = csv_records(file, table) if _suffix(table) == ".csv" else json_records(file)
                yield from (checked(record) for record in read)
        except OSError as error:
            raise ManifestError(f"{table} cannot be read: {error}") from error

    def _open(self, table: str) -> Any:
        # What is not UTF-8 becomes lone surrogates, which `checked` finds.
        path = open_path(table, self.schemes)
        return path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")


def _suffix(table: str) -> str:
    return os.path.splitext(table)[1].lower()


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _table(columns: list[Any], schema: pa.Schema, rows: int) -> pa.Table:
    if not columns:
        # A table without columns has no length of its own.
        return pa.table({"": pa.nulls(rows)})
    return pa.table(columns, schema=schema)


def _groups_after(file: pyarrow.parquet.ParquetFile, skip: int) -> tuple[list[int], int]:
    """The row groups that are not skipped as a whole, and the rows to skip in them."""
    groups = list(range(file.metadata.num_row_groups))
    while groups and skip >= (found := file.metadata.row_group(groups[0]).num_rows):
        groups, skip = groups[1:], skip - found
    return groups, skip


def _kept_text(record: Record, column: str) -> str | None:
    value = None if isinstance(record, Broken) else record.get(column)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
