"""CSV and JSON lines, of which a line that cannot be read fails alone."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dimml.errors import InputError, ManifestError
from dimml.samples import is_absent

# A cell of a CSV file may hold a whole text; what is too long for a modality is refused there.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


@dataclass(frozen=True, slots=True)
class Broken:
    """A line of a table that cannot be read, with its id if that can."""

    error: InputError
    id: str | None = None


Record = Mapping[str, Any] | Broken


def read_header(reader: Any, table: str) -> list[str]:
    """The names in the first line that is not blank.

    Raises:
        ManifestError: a name stands twice.
    """
    try:
        names: list[str] = next((row for row in reader if row), [])
    except csv.Error as error:
        raise ManifestError(f"{table}: its first line is not CSV: {error}") from error
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ManifestError(f"{table} has several columns named {', '.join(repeated)}")
    return names


def csv_records(file: Any, table: str) -> Iterator[Record]:
    """The rows of an open CSV file; blank lines are none.

    Raises:
        ManifestError: a quote is never closed, or a column stands twice.
    """
    reader = csv.reader(file, strict=True)
    header = read_header(reader, table)
    at = header.index("id") if "id" in header else len(header)
    while True:
        started = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                # Whatever rows follow the quote are in that one cell.
                raise ManifestError(
                    f"{table}, line {started}: a quote is opened and never closed"
                ) from error
            yield _broken(f"line {started} is not CSV: {error}")
            continue
        if len(values) == len(header):
            yield dict(zip(header, values, strict=True))
        elif values:
            found = values[at] if at < len(values) else None
            yield _broken(
                f"line {started} has {len(values)} cells, the header {len(header)}", found
            )


def json_records(file: Any) -> Iterator[Record]:
    """The objects of an open file of JSON lines; blank lines are none."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _broken(f"line {number} is not JSON: {getattr(error, 'msg', error)}")
            continue
        yield record if isinstance(record, dict) else _broken(f"line {number} is no JSON object")


def checked(record: Record) -> Record:
    """The record, or what is wrong with its characters."""
    if isinstance(record, Broken):
        return record
    for name, value in record.items():
        if not _is_utf8(value):
            identifier = id_of(record)
            return _broken(
                f"the cell of {name.encode(errors='replace').decode()} is not UTF-8",
                identifier if _is_utf8(identifier) else None,
            )
    return record


def _is_utf8(value: Any) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def id_of(record: Record) -> str | None:
    """Its `id`, None where it has none that can be read."""
    identifier = record.id if isinstance(record, Broken) else record.get("id")
    return None if is_absent(identifier) else str(identifier)


def _broken(message: str, identifier: str | None = None) -> Broken:
    return Broken(InputError("invalid_request", message), identifier)
