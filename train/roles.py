"""Choose what the columns of a table are: label, splits, ids and modalities."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydantic

from dimml.errors import UsageError, shorten
from dimml.names import ModalityName, reserved_name_problem
from dimml.samples import MAX_MODALITIES
from dimml.table.cells import SPLITS, split_name
from dimml.table.rows import missing_columns
from train.profile import ColumnProfile

LABEL_COLUMNS = frozenset(
    (
        *("class", "category", "target", "y", "species", "sentiment", "labels", "classes"),
        *("class_name", "class_label", "genre", "emotion", "diagnosis", "intent", "topic"),
    )
)
"""Names of columns that hold labels; a column named `label` comes before them."""
SPLIT_COLUMNS = ("split", "set", "fold", "partition", "subset")
ID_COLUMNS = ("id", "key", "uuid", "sku")
MODALITY_KINDS = {
    "image": "image",
    "frames": "image",
    "video": "image",
    "audio": "audio",
    "text": "text",
}
"""The kind of a column that can be a modality, to the kind of the modality."""
VALUE_KINDS = ("category", "number", "id", "text")
"""The kinds of columns that can hold labels."""

_SHOWN_NAMES = 10
_MAX_SLUG = 24
"""Characters of a slug, which leave room for a kind before it."""
_Name: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(ModalityName)


@dataclass(frozen=True)
class TableRoles:
    """The roles of a table's columns.

    Attributes:
        label: The column of the labels.
        split: Name of the column of the splits, None where rows are assigned by a rule.
        splits: The splits that it names.
        id: Name of the column of the ids, None without one.
        modalities: Modality name to its column.
        groups: Names of the columns whose values repeat, such as a speaker.
        unused: The other columns.
    """

    label: ColumnProfile
    split: str | None
    splits: set[str]
    id: str | None
    modalities: dict[str, ColumnProfile]
    groups: list[str]
    unused: list[ColumnProfile]


def choose_roles(
    table: Path, columns: Sequence[ColumnProfile], label: str | None, complete: bool
) -> TableRoles:
    """Choose the columns of labels, splits, ids and modalities.

    Raises:
        UsageError: If the label is in doubt, or no column is a modality.
    """
    others = [column for column in columns if column.name != label]
    split = next((c for name in SPLIT_COLUMNS for c in others if _is_split(c, name)), None)
    rest = [column for column in columns if column is not split]
    chosen = _choose_label(table, rest, label, complete)
    rest.remove(chosen)
    found = [column for column in rest if column.kind in MODALITY_KINDS]
    if not found:
        held = ", ".join(f"{shorten(c.name)} ({c.kind})" for c in rest[:_SHOWN_NAMES]) or "none"
        raise UsageError(
            f"{table} has no column of images, recordings or free text; its columns beside the "
            f"label `{chosen.name}` are: {held}. Paths are known by their suffix, such as .jpg or "
            ".wav"
        )
    read = [part for column in found for part in _tracks(column)][:MAX_MODALITIES]
    modalities = dict(zip(modality_names(read), read, strict=True))
    used = {column.name for column in read}
    rest = [column for column in rest if column.name not in used]
    identifier = _choose_id(rest)
    unused = [column for column in rest if column.name != identifier]
    groups = [
        column.name
        for column in unused
        if column.kind in ("category", "number") and column.repeats and column.distinct > 1
    ]
    return TableRoles(
        label=chosen,
        split=split.name if split else None,
        splits={split_name(value) for value in split.values} if split else set(),
        id=identifier,
        modalities=modalities,
        groups=groups,
        unused=unused,
    )


def modality_names(columns: Sequence[ColumnProfile]) -> list[str]:
    """Return a valid modality name for each column, close to the column's own name."""
    names: list[str] = []
    for column in columns:
        kind = MODALITY_KINDS[column.kind]
        plain = unicodedata.normalize("NFKD", column.name.casefold()).encode("ascii", "ignore")
        slug = re.sub(r"[^a-z0-9]+", "_", plain.decode()).strip("_")[:_MAX_SLUG].rstrip("_")
        numbered = [f"{kind}_{number}" for number in range(2, len(columns) + 3)]
        candidates = [column.name, slug, f"{kind}_{slug}".rstrip("_"), kind, *numbered]
        if sum(other.name == column.name for other in columns) > 1:
            # The column's own name stands for both of its modalities.
            candidates = [kind, f"{kind}_{slug}".rstrip("_"), *numbered]
        names.append(next(name for name in candidates if _is_free(name, names)))
    return names


def _tracks(column: ColumnProfile) -> list[ColumnProfile]:
    """Return the modalities of a column: the pictures and the sound of a column of videos."""
    if column.kind != "audio" or 2 * column.videos < column.rows - column.missing:
        return [column]
    pictures = replace(column, kind="video")
    return [pictures] if column.seconds is None else [pictures, column]


def _is_free(name: str, names: Sequence[str]) -> bool:
    try:
        _Name.validate_python(name)
    except pydantic.ValidationError:
        return False
    every = [*names, name]
    return name not in names and not any(reserved_name_problem(n, every) for n in every)


def _is_split(column: ColumnProfile, name: str) -> bool:
    splits = {split_name(value) for value in column.values}
    return column.name.strip().lower() == name and len(splits & {*SPLITS}) > 1


def _choose_label(
    table: Path, columns: Sequence[ColumnProfile], label: str | None, complete: bool
) -> ColumnProfile:
    by_name = {column.name: column for column in columns}
    if label is not None:
        if missing := missing_columns(by_name, [label]):
            raise UsageError(f"--label: {missing.message(table)}")
        if by_name[label].kind not in VALUE_KINDS or by_name[label].distinct < 1 + complete:
            raise UsageError(
                f"--label {label}: the column holds {by_name[label].distinct} distinct values "
                f"({by_name[label].kind}); a classifier needs two or more"
            )
        return by_name[label]
    # The rows of a sorted table begin with one label.
    usable = [
        column
        for column in columns
        if column.kind in VALUE_KINDS and column.repeats and column.distinct >= 1 + complete
    ]
    plain = [column for column in usable if column.name.strip().lower() == "label"]
    named = [column for column in usable if column.name.strip().lower() in LABEL_COLUMNS]
    categories = [column for column in usable if column.kind == "category" and column.distinct > 1]
    candidates = plain or named or categories
    if len(candidates) == 1:
        return candidates[0]
    shown = (candidates or usable)[:_SHOWN_NAMES]
    listed = ", ".join(f"{shorten(c.name)} ({c.distinct} values)" for c in shown)
    found = (
        f"several columns may hold the labels: {listed}"
        if len(candidates) > 1
        else f"no column is the label beyond doubt; candidates: {listed or 'none'}; the columns "
        f"are {', '.join(shorten(name) for name in list(by_name)[:_SHOWN_NAMES])}"
    )
    raise UsageError(f"{table}: {found}. Name the label with --label COLUMN")


def _choose_id(columns: Sequence[ColumnProfile]) -> str | None:
    ids = [c for c in columns if c.kind == "id" and not c.missing]
    named = [c.name for name in ID_COLUMNS for c in ids if c.name.strip().lower() == name]
    if named:
        return named[0]
    return ids[0].name if len(ids) == 1 else None
