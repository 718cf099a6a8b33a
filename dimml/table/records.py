"""The records of a table: each maps column names to values, or says why it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimml.errors import InputError, ManifestError, shorten

_LEGACY_ENCODING = "Windows-1252"


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A line that cannot be read, with its id where that can be read."""

    error: InputError
    id: str | None = None


Record = Mapping[str, Any] | BrokenRecord


def broken_record(message: str, identifier: Any = None) -> BrokenRecord:
    """Return the record of a line that cannot be read; its id must be valid text."""
    return BrokenRecord(
        InputError("invalid_request", message), identifier if is_utf8(identifier) else None
    )


def checked_record(record: Mapping[str, Any], line: int) -> Record:
    """Return a record, or a `BrokenRecord` if one of its cells is not UTF-8."""
    for name, value in record.items():
        if not is_utf8(value):
            column = shorten(name.encode(errors="replace").decode())
            message = f"line {line}: the cell of {column} is not UTF-8{_encoding_hint(value)}"
            return broken_record(message, record.get("id"))
    return record


def distinct_names(names: Sequence[str], path: object) -> list[str]:
    """Return the column names of a table.

    Raises:
        ManifestError: If two columns have the same name.
    """
    # Columns without a name, as of an exported index, may be several: none is read.
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise ManifestError(
            f"{path} has several columns named {shorten(', '.join(repeated))}; keep one of each"
        )
    return list(names)


def is_utf8(value: Any) -> bool:
    """Return whether UTF-8 can encode a value, which it cannot if it has lone surrogates."""
    # `str` would escape the surrogates in a list or an object.
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoding_hint(value: Any) -> str:
    """Name the byte that is not UTF-8, and what it means in the most common other encoding."""
    try:
        content = value.encode("utf-8", "surrogateescape")
        content.decode()
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1]
        meaning = byte.decode("cp1252", "replace")
        return (
            f" (byte 0x{byte.hex().upper()}, which is {meaning!r} in {_LEGACY_ENCODING}); write "
            f"the table again in UTF-8, as `iconv -f {_LEGACY_ENCODING.upper()} -t UTF-8` does"
        )
    except (AttributeError, UnicodeEncodeError):
        pass
    return ""
