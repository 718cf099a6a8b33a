"""Read the rows of tables as samples."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.errors import InputError, ManifestError, shorten
from dimml.progress import print_once
from dimml.table.cells import cell_text, label_text, modality_value, split_name
from dimml.table.find import find_tables
from dimml.table.formats import column_names, read_records
from dimml.table.layout import TableSource
from dimml.table.records import BrokenRecord, is_utf8
from dimml.table.splitting import assign_splits

_SHOWN_COLUMNS = 30
"""Columns of a table that a message lists."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        id: The `id` column, or the row's number from 0 where it is empty or missing.
        split: "train", "validation", "test", another name, or None.
        label: None where the label is not known.
        sample: Modality name to value, ready for `Predictor.predict`.
    """

    id: str
    split: str | None
    label: str | None
    sample: Mapping[str, Any]


def read_rows(source: TableSource, split: str | None = None) -> Iterator[Row]:
    """Yield the rows of tables in order, after a check of their columns.

    Args:
        source: The tables.
        split: Name of the only split to return; None for all rows.

    Raises:
        ManifestError: If a table or one of its lines cannot be read, no column is a modality, or
            the id, the label or a modality of a row has a type that cannot be read.
    """
    layout = source.layout
    required = [layout.column(name) for name in source.kinds]
    for table in find_tables(source.path):
        if not any(name in required for name in column_names(table)):
            raise ManifestError(missing_columns(column_names(table), required).message(table))
        if split is None:
            continue
        needed = layout.rule.by if layout.rule else layout.column("split")
        if needed and (missing := missing_columns(column_names(table), [needed])):
            raise ManifestError(f"{missing.message(table)}; the {split} split needs it")
    return _rows(source, split)


def read_labels(source: TableSource, split: str) -> Iterator[Row]:
    """Yield the rows of a split with empty samples.

    Only the columns of ids, labels and splits are read. See `read_rows` for the errors.
    """
    return _rows(source._replace(kinds={}), split)


def _rows(source: TableSource, only: str | None) -> Iterator[Row]:
    names = ("id", "split", "label", *source.kinds)
    columns = {name: source.layout.column(name) for name in names}
    assigned = _assigned_splits(source, columns["label"])
    changed_labels: list[str] = []
    for number, (table, record) in enumerate(table_records(source, columns.values())):
        try:
            split = assigned[number] if assigned else _split(record, columns["split"])
            if only is not None and split != split_name(only):
                continue
            written = cell_text(record.get(columns["label"]), columns["label"])
            label = label_text(record.get(columns["label"]), columns["label"])
            if label is not None and label != written:
                changed_labels.append(f"{shorten(repr(written))} in row {number}")
            sample = {
                name: modality_value(name, record.get(columns[name]), kind, table.parent.joinpath)
                for name, kind in source.kinds.items()
            }
            identifier = cell_text(record.get(columns["id"]), columns["id"])
        except InputError as error:
            raise ManifestError(f"{table}, row {number}: {error}; correct this cell") from error
        yield Row(identifier or str(number), split, label, sample)
    if changed_labels:
        print_once(
            f"{source.path}: labels {f'of the {only} split ' if only else ''}that lose the blanks "
            f"around them or are composed (Unicode NFC): {len(changed_labels)}, such as "
            f"{changed_labels[0]}"
        )


def table_records(
    source: TableSource, used: Collection[str] | None = None
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the table and the record of each row, in order.

    Args:
        source: The tables.
        used: The columns that are used, see `read_records`; None for all.

    Raises:
        ManifestError: If a table or one of its lines cannot be read.
    """
    for table in find_tables(source.path):
        for record in read_records(table, used, source.layout.keep_na):
            if isinstance(record, BrokenRecord):
                raise ManifestError(f"{table}: {record.error.message}; correct or remove this line")
            yield table, record


def _assigned_splits(source: TableSource, label_column: str) -> list[str]:
    """Return the split of each row by the rule of the source, or nothing without a rule."""
    rule = source.layout.rule
    if rule is None:
        return []
    by = rule.by
    labels, groups = [], []
    used = [label_column, by] if by else [label_column]
    for number, (table, record) in enumerate(table_records(source, used)):
        try:
            labels.append(label_text(record.get(label_column), label_column))
            groups.append(cell_text(record.get(by), by) if by else None)
        except InputError as error:
            raise ManifestError(f"{table}, row {number}: {error}; correct this cell") from error
    return assign_splits(labels, groups if by else None, rule)


def _split(record: Mapping[str, Any], column: str) -> str | None:
    text = cell_text(record.get(column), column)
    return None if text is None else split_name(text)


@dataclass(frozen=True)
class MissingColumns:
    """The columns that a table lacks; false where it lacks none.

    Attributes:
        suggestions: Name of each missing column to the existing column that may be meant.
        columns: Names of the existing columns.
    """

    suggestions: Mapping[str, str | None]
    columns: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.suggestions)

    def message(self, path: object) -> str:
        """Return the error text for the table at `path`."""
        missing = [
            name + (f" (did you mean {near}?)" if near else "")
            for name, near in self.suggestions.items()
        ]
        columns = ", ".join(map(shorten, self.columns[:_SHOWN_COLUMNS])) or "none"
        more = len(self.columns) - _SHOWN_COLUMNS
        columns += f" and {more} more" if more > 0 else ""
        advice = "" if is_utf8(columns) else "; write the table again in UTF-8"
        return f"{path} has no column for {', '.join(missing)}; its columns are {columns}{advice}"


def missing_columns(names: Iterable[str], required: Iterable[str]) -> MissingColumns:
    """Return the required columns that are not among `names`, which is read as far as necessary."""
    missing = dict.fromkeys(required)
    seen = list[str]()
    for name in names if missing else ():
        seen.append(name)
        missing.pop(name, None)
        if not missing:
            break
    free = {name.lower(): name for name in seen if name not in ("id", "split", "label", *missing)}
    near = {name: difflib.get_close_matches(name, free, n=1) for name in missing}
    return MissingColumns({name: free[n[0]] if n else None for name, n in near.items()}, seen)
