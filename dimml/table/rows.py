"""Read the rows of a table as samples."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.errors import ManifestError
from dimml.samples import is_absent
from dimml.table.formats import BrokenRecord, column_names, is_utf8, read_records, record_id


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes:
        id: The `id` column, or the row's number from 0 where it is empty or missing.
        split: "train", "validation", "test", or None.
        label: None where the label is not known.
        sample: Modality name to value, ready for `Predictor.predict`.
    """

    id: str
    split: str | None
    label: str | None
    sample: Mapping[str, Any]


def read_rows(
    path: str | Path, kinds: Mapping[str, str], split: str | None = None
) -> Iterator[Row]:
    """Yield the rows of a table in order, after a check of its columns.

    Args:
        path: Path of the table.
        kinds: Modality name, which is also the name of its column, to kind.
        split: Name of the only split to return; None for all rows.

    Raises:
        ManifestError: If the table or one of its lines cannot be read, or no column is a modality.
    """
    path = Path(path)
    if not any(name in kinds for name in column_names(path)):
        raise ManifestError(missing_columns(column_names(path), kinds).message(path))
    if split is not None and "split" not in column_names(path):
        raise ManifestError(f"{path} has no column `split`, so it has no {split} split")
    return _rows(path, kinds, split)


def _rows(path: Path, kinds: Mapping[str, str], split: str | None) -> Iterator[Row]:
    locate = path.parent.joinpath
    for number, record in enumerate(read_records(path)):
        if isinstance(record, BrokenRecord):
            raise ManifestError(f"{path}: {record.error.message}; correct or remove this line")
        if split is not None and record.get("split") != split:
            continue
        yield Row(
            id=record_id(record) or str(number),
            split=_optional_text(record.get("split")),
            label=_optional_text(record.get("label")),
            sample={n: modality_value(record.get(n), kind, locate) for n, kind in kinds.items()},
        )


def modality_value(value: Any, kind: str, locate: Callable[[str], Any]) -> Any:
    """Return the cell of a modality as `Sample` takes it; None if the cell is empty.

    Args:
        value: The cell; a Hugging Face struct of `bytes` and `path` counts as one of them.
        kind: Kind of the modality.
        locate: Turns the path in a cell into the file that the sample holds.
    """
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if is_absent(value) or value == b"":
        return None
    if kind == "text":
        return value if isinstance(value, str | bytes) else str(value)
    if isinstance(value, str):
        return locate(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [modality_value(item, kind, locate) for item in value]
    return value


def _optional_text(value: Any) -> str | None:
    return None if is_absent(value) else str(value)


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
        columns = ", ".join(self.columns) or "none"
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
