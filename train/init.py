"""Write a commented recipe for a table, from the profile of its columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from dimml.errors import UsageError, shorten
from dimml.files import new_file
from dimml.samples import MAX_MODALITIES
from dimml.table.cells import SPLITS
from train.profile import ColumnProfile, profile_table
from train.recipe import load_recipe
from train.roles import MODALITY_KINDS, TableRoles, choose_roles

TEMPLATE = Path(__file__).parent / "recipe.yaml.j2"
MIN_BATCH_SIZE, MAX_BATCH_SIZE = 8, 64
STEPS_PER_EPOCH = 10
MIN_SECONDS, MAX_SECONDS = 0.5, 10.0
MIN_TOKENS, MAX_TOKENS = 16, 256
TOKENS_PER_WORD = 2
"""Tokens of a word with a tokenizer that is trained on the texts."""
MAX_FRAMES = 8

_SHOWN_CLASSES = 5
_FOREIGN_SHARE = 0.1
"""Above this share of texts with other letters than a to z, a multilingual model is proposed."""


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe that was written, and what it is based on.

    Attributes:
        path: The recipe.
        table: The table, folder or pattern.
        columns: The profile of each column.
        roles: The roles of the columns.
        complete: Whether the profile covers all rows.
    """

    path: Path
    table: Path
    columns: list[ColumnProfile]
    roles: TableRoles
    complete: bool

    def warnings(self) -> Iterator[str]:
        """Yield what the user should look at before training."""
        label, split = self.roles.label, self.roles.split
        if not self.complete:
            yield f"only the first {label.rows:,} rows were looked at; there are more"
        if not label.repeats:
            yield (
                f"the label `{label.name}` has {label.distinct:,} values in "
                f"{label.rows - label.missing:,} rows; a class needs ten rows or more"
            )
        for name, column in self.roles.modalities.items():
            yield from (f"{name}: {note}" for note in file_notes(column))
        if split and self.complete and "validation" not in self.roles.splits:
            yield (
                f"the column `{split}` has no row of the validation split, which training needs: "
                "give some of its train rows the value `validation`"
            )
        if others := sorted(self.roles.splits - {*SPLITS}):
            yield (
                f"rows whose `{split}` is {', '.join(map(shorten, others))} are not used; the "
                f"names of splits are {', '.join(SPLITS)}"
            )
        left_out = [c.name for c in self.roles.unused if c.kind in MODALITY_KINDS]
        if left_out:
            names = ", ".join(map(shorten, left_out))
            yield f"a recipe has at most {MAX_MODALITIES} modalities; left out: {names}"

    def summary(self) -> Iterator[str]:
        """Yield lines about what was found, the warnings and the next command."""
        roles = self.roles
        split = f"`{roles.split}`" if roles.split else "by rule, 15 % validation and 15 % test"
        identifier = f"; ids: `{roles.id}`" if roles.id else ""
        label = f"label: `{roles.label.name}` ({describe_classes(roles.label)})"
        yield f"{self.table}: {roles.label.rows:,} rows; {label}; splits: {split}{identifier}"
        for name, column in roles.modalities.items():
            yield f"  {name}: {column.kind} in `{column.name}`{_missing(column)}"
        if roles.unused:
            unused = ", ".join(f"{shorten(c.name)} ({c.kind})" for c in roles.unused)
            yield f"  not used: {unused}"
        yield from (f"  warning: {warning}" for warning in self.warnings())
        yield f"next: dimml check {self.path}"

    def document(self) -> dict[str, Any]:
        """Return the recipe's path, the roles and the profile of the columns as JSON types."""
        return {
            "recipe": str(self.path),
            "table": str(self.table),
            "rows": self.roles.label.rows,
            "complete": self.complete,
            "label": self.roles.label.name,
            "split": self.roles.split,
            "id": self.roles.id,
            "modalities": {name: column.name for name, column in self.roles.modalities.items()},
            "warnings": list(self.warnings()),
            "columns": [asdict(column) for column in self.columns],
        }


def write_recipe(table: Path, path: Path, label: str | None, overwrite: bool) -> WrittenRecipe:
    """Profile a table and write a commented recipe for it.

    Args:
        table: A table, folder or pattern.
        path: The recipe to write.
        label: Name of the column of the labels; None to choose it.
        overwrite: Whether an existing recipe is replaced.

    Raises:
        UsageError: If the recipe exists, the table cannot be read, or no column is the label or a
            modality beyond doubt.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the recipe to write, such as recipe.yaml")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; name another file, or replace it with --overwrite")
    columns, complete = profile_table(table)
    roles = choose_roles(table, columns, label, complete)
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        part.write_text(_render(table, roles, complete), encoding="utf-8")
        load_recipe(part)
    return WrittenRecipe(path, table, columns, roles, complete)


def describe_classes(label: ColumnProfile) -> str:
    """Return the number of classes and the largest of them."""
    shown = [f"{shorten(value, 30)} {count:,}" for value, count in label.values.items()]
    more = ", …" if label.distinct > _SHOWN_CLASSES else ""
    return f"{label.distinct:,} classes: {', '.join(shown[:_SHOWN_CLASSES])}{more}"


def file_notes(column: ColumnProfile) -> Iterator[str]:
    """Yield what is wrong with the files of a column."""
    if column.missing_files:
        yield (
            f"{column.missing_files:,} of {column.files:,} files do not exist (paths are relative "
            f"to the table); the first: {column.missing_file}"
        )
    if column.kind == "audio" and column.seconds is None:
        yield "none of the recordings that were tried can be read; `dimml check` says why"


def _missing(column: ColumnProfile) -> str:
    share = column.missing / column.rows
    return f"; {share:.1%} of the cells are empty" if column.missing else ""


def _render(table: Path, roles: TableRoles, complete: bool) -> str:
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"yaml": _yaml, "comment": _printable}
    rows = roles.label.rows
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        table=str(table),
        rows=f"{rows:,} rows" if complete else f"its first {rows:,} rows",
        name=_recipe_name(table),
        roles=roles,
        classes=describe_classes(roles.label),
        modalities=[_modality(name, column) for name, column in roles.modalities.items()],
        batch_size=_batch_size(rows),
    )


def _recipe_name(table: Path) -> str:
    """Return a name after the table, or after the folder of a pattern."""
    is_pattern = re.search(r"[*?\[]", table.name)
    stem = table.resolve().parent.name if is_pattern else table.resolve().name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:64] or "classifier"


def _batch_size(rows: int) -> int:
    """Return a power of two that gives an epoch of the train split some steps."""
    size = 1 << int(0.7 * rows / STEPS_PER_EPOCH).bit_length() >> 1
    return min(MAX_BATCH_SIZE, max(MIN_BATCH_SIZE, size))


def _modality(name: str, column: ColumnProfile) -> dict[str, Any]:
    """Return what the template needs of a modality."""
    preprocessing, alternative = _SETTINGS[column.kind](column)
    empty = f"{column.missing / column.rows:.1%} of the cells are empty."
    return {
        "name": name,
        "column": column.name,
        "kind": MODALITY_KINDS[column.kind],
        "notes": [*([empty] if column.missing else []), *file_notes(column)],
        "preprocessing": preprocessing,
        "alternative": alternative,
    }


def _audio_settings(column: ColumnProfile) -> tuple[dict[str, Any], list[str]]:
    seconds = math.ceil(10 * (column.seconds or 1.0)) / 10
    return {"seconds": min(MAX_SECONDS, max(MIN_SECONDS, seconds))}, [
        "For speech, a pretrained model in place of the line above:",
        "encoder: openai/whisper-base",
        "For sounds and music, in place of `preprocessing` too:",
        "encoder: laion/clap-htsat-unfused",
    ]


def _text_settings(column: ColumnProfile) -> tuple[dict[str, Any], list[str]]:
    tokens = 16 * math.ceil((TOKENS_PER_WORD * column.words + 2) / 16)
    preprocessing = {"max_length": min(MAX_TOKENS, max(MIN_TOKENS, tokens))}
    if column.foreign > _FOREIGN_SHARE:
        return preprocessing, [
            "A pretrained model for many languages, in place of the two lines above:",
            'preprocessing: {prompt: "query: "}',
            "encoder: intfloat/multilingual-e5-base",
        ]
    return preprocessing, [
        "A pretrained model for short English texts, in place of the two lines above:",
        "encoder: sentence-transformers/all-MiniLM-L6-v2",
    ]


def _image_settings(column: ColumnProfile) -> tuple[dict[str, Any], list[str]]:
    count = MAX_FRAMES if column.kind == "video" else min(MAX_FRAMES, column.frames)
    frames = {} if column.kind == "image" else {"frames": count}
    # A pretrained model has a size of its own, but no number of frames.
    kept = [f"preprocessing: {_yaml(frames)}"] if frames else []
    return {"size": [64, 64], **frames}, [
        "A pretrained model for photographs, in place of the two lines above:",
        *kept,
        "encoder: openai/clip-vit-base-patch32",
    ]


_SETTINGS = {
    "audio": _audio_settings,
    "text": _text_settings,
    "image": _image_settings,
    "frames": _image_settings,
    "video": _image_settings,
}
"""Kind of a column to its preprocessing, and the lines on a pretrained encoder."""


def _yaml(value: Any) -> str:
    """Return a value as YAML in one line, also inside brackets."""
    text = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False
    )
    return text.strip()[1:-1]


def _printable(text: str) -> str:
    """Return text for a comment: in one line, with the characters that YAML accepts."""
    return "".join(char if char.isprintable() else " " for char in text)
