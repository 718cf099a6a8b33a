"""The rows of a table that take part in training or evaluation, and the tokenizer of their text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import file_digest, sha256
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from dimml.errors import ManifestError, list_first, shorten
from dimml.progress import print_status
from dimml.samples import is_absent
from dimml.table import Row, TableSource, column_names, read_labels, read_rows
from dimml.table.cells import SPLITS
from dimml.table.find import find_tables
from dimml.table.rows import MissingColumns, missing_columns
from train.methods.base import UNLABELLED

SHOWN_LABELS = 5
"""How many labels a message names."""


def read_training_splits(source: TableSource) -> dict[str, list[Row]]:
    """Return the rows of the train and validation splits, and reject rows that cannot be learnt.

    The train split includes rows without a label that have two or more modalities, because one
    modality can teach another.

    Raises:
        ManifestError: If a modality has no column or too few rows, there are fewer than two labels,
            or a label of the validation or the test split does not occur in the train split.
    """
    path = source.path
    if missing := missing_modalities(source):
        raise ManifestError(
            f"{missing.message(path)}; name each modality of the recipe as its column, or its "
            "column in the recipe with `column:`"
        )
    rows = {
        "train": read_split(source, "train", pairs=True),
        "validation": read_split(source, "validation"),
    }
    labelled = [row for row in rows["train"] if row.label is not None]
    labels = {str(row.label) for row in labelled}
    if len(labels) < 2:
        raise ManifestError(
            f"the train split of {path} has one label, {labels.pop()}; a classifier needs at least "
            "two, each with a row in the train split"
        )
    for split in ("validation", "test"):
        others = rows[split] if split in rows else _rows_to_test(source, labels)
        if unknown := name_unknown(others, labels):
            raise ManifestError(
                f"the {split} split of {path} has labels that its train split lacks: {unknown}; "
                "add a row with each to the train split, or take these rows out of the "
                f"{split} split"
            )
    for name in source.kinds:
        if sum(not is_absent(row.sample[name]) for row in labelled) < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split of {path} have it; "
                "fill its column, or leave the modality out of the recipe"
            )
    return rows


def _rows_to_test(source: TableSource, labels: Collection[str]) -> list[Row]:
    """Return the test rows that `dimml evaluate` uses, unless all their labels are known.

    The labels are read first, without the other columns, so a test split is rarely read whole.
    """
    unknown = {row.label for row in read_labels(source, "test")} - {None, *labels}
    if not unknown:
        return []
    return [row for row in read_rows(source, "test") if takes_part(row, pairs=False)]


def name_unknown(rows: Iterable[Row], labels: Collection[str]) -> str:
    """Return the labels of rows that are not among `labels`, each with its first row, or ""."""
    first: dict[str, str] = {}
    for row in rows:
        if row.label is not None and row.label not in labels:
            first.setdefault(row.label, row.id)
    named = [f"{shorten(label)} (row {shorten(first[label])})" for label in sorted(first)]
    return list_first(named, SHOWN_LABELS)


def missing_modalities(source: TableSource) -> MissingColumns:
    """Return the columns of modalities that the first table lacks."""
    required = [source.layout.column(name) for name in source.kinds]
    return missing_columns(column_names(find_tables(source.path)[0]), required)


def read_split(source: TableSource, split: str | None, pairs: bool = False) -> list[Row]:
    """Return the labelled rows of a split that have at least one modality.

    Args:
        source: The tables.
        split: The name of the split; None for all rows.
        pairs: Whether to include rows without a label that have two or more modalities.

    Raises:
        ManifestError: If the table has no `label` column or the split has no labelled row.
    """
    label = source.layout.column("label")
    if missing := missing_columns(column_names(find_tables(source.path)[0]), [label]):
        raise ManifestError(
            f"{missing.message(source.path)}; the recipe's `data: {{label: COLUMN}}` names it"
        )
    rows = [row for row in read_rows(source, split) if takes_part(row, pairs)]
    if all(row.label is None for row in rows):
        raise ManifestError(
            f"{source.path} has no labelled row{f' in its {split} split' if split else ''}: "
            f"{_explain_no_rows(source, split)}"
        )
    return rows


def takes_part(row: Row, pairs: bool) -> bool:
    """Return whether a row has a modality and a label, or with `pairs` two modalities."""
    count = sum(not is_absent(value) for value in row.sample.values())
    return count > 0 and (row.label is not None or (pairs and count > 1))


def _explain_no_rows(source: TableSource, split: str | None) -> str:
    splits = {row.split or "(empty)" for row in read_rows(source)}
    if split is None or split in splits:
        return "none of its rows has both a label and a modality"
    if source.layout.rule:
        return "the recipe's `split` gives it too few rows"
    held = ", ".join(map(shorten, sorted(splits)[:10])) or "nothing"
    return (
        f"its column `{source.layout.column('split')}` holds {held}; the names of splits are "
        f"{', '.join(SPLITS)}"
    )


def report_unreadable(split: str, problems: Sequence[str]) -> None:
    """Tell the user how many cells of a split cannot be read, and why the first cannot."""
    if problems:
        print_status(
            f"{split}: unreadable cells that count as absent: {len(problems)}; the first is in row "
            f"{problems[0]}"
        )


def no_readable_row(split: str, first: str) -> ManifestError:
    """Return the error for a split without a readable row, whose first problem is given."""
    return ManifestError(f"no row of the {split} split can be read; the first: {first}")


def tables_sha256(path: Path) -> str:
    """Return the sha256 of a table, or of the sha256s of several, which identifies a run's data.

    Raises:
        ManifestError: If a table cannot be read.
    """
    digests = [_sha256(table) for table in find_tables(path)]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestError(
            f"cannot read the table {path} ({error.strerror}); a relative path in a recipe's "
            f"`data` starts at the current folder, {Path.cwd()}"
        ) from error


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> bytes:
    """Train a byte-pair tokenizer of lower-cased text, and return its `tokenizer.json`."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str().encode()


def labelled_rows(labels: np.ndarray) -> np.ndarray:
    """Return the numbers, int64 [n], of the labels [N] that are not `UNLABELLED`."""
    return np.flatnonzero(labels != UNLABELLED)


def training_rows(labels: np.ndarray, unlabelled: bool) -> np.ndarray:
    """Return the row numbers of an epoch, int64 [n].

    With `unlabelled`, the epoch has all rows, and repeats the labelled ones if they are fewer, so
    that they make up about half. Otherwise labelled rows take the places of the others, so that
    every method takes the same number of steps.

    Args:
        labels: int64 [N], `UNLABELLED` for a row without a label.
        unlabelled: Whether rows without a label take part.
    """
    labelled, rest = labelled_rows(labels), np.flatnonzero(labels == UNLABELLED)
    repeats = max(1, round(len(rest) / len(labelled)))
    mixed = np.concatenate([np.tile(labelled, repeats), rest])
    return mixed if unlabelled else np.resize(labelled, len(mixed))
