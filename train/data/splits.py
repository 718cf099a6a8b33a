"""The rows of a table that take part in training or evaluation, and the tokenizer of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from dimml.errors import ManifestError
from dimml.progress import print_status
from dimml.samples import is_absent
from dimml.table import Row, column_names, missing_columns, read_rows
from train.methods.base import UNLABELLED

SPLITS = ("train", "validation", "test")


def read_training_splits(path: Path, kinds: Mapping[str, str]) -> dict[str, list[Row]]:
    """Return the rows of the train and validation splits, and reject rows that cannot be learnt.

    The train split includes rows without a label that have two or more modalities, because one
    modality can teach another.

    Raises:
        ManifestError: If a modality has no column or too few rows, there are fewer than two labels,
            or a label of the validation split does not occur in the train split.
    """
    if missing := missing_columns(column_names(path), kinds):
        raise ManifestError(
            f"{missing.message(path)}; name each modality of the recipe as its column"
        )
    rows = {
        "train": read_split(path, kinds, "train", pairs=True),
        "validation": read_split(path, kinds, "validation"),
    }
    labelled = [row for row in rows["train"] if row.label is not None]
    labels = {str(row.label) for row in labelled}
    if len(labels) < 2:
        raise ManifestError(
            f"the train split of {path} has one label, {labels.pop()}; a classifier needs at least "
            "two, each with a row in the train split"
        )
    if unknown := sorted({str(row.label) for row in rows["validation"]} - labels):
        raise ManifestError(
            f"the validation split of {path} has labels that its train split lacks: "
            f"{', '.join(unknown[:5])}; add a row with each to the train split"
        )
    for name in kinds:
        if sum(not is_absent(row.sample[name]) for row in labelled) < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split of {path} have it; "
                "fill its column, or leave the modality out of the recipe"
            )
    return rows


def read_split(path: Path, kinds: Mapping[str, str], split: str, pairs: bool = False) -> list[Row]:
    """Return the labelled rows of a split that have at least one modality.

    Args:
        path: The table.
        kinds: Modality to kind.
        split: The name of the split.
        pairs: Whether to include rows without a label that have two or more modalities.

    Raises:
        ManifestError: If the table has no `label` column or the split has no labelled row.
    """
    if "label" not in column_names(path):
        raise ManifestError(
            f"{path} has no column `label`; its columns are {', '.join(column_names(path))}"
        )
    rows = []
    for row in read_rows(path, kinds, split):
        count = sum(not is_absent(value) for value in row.sample.values())
        if count and (row.label is not None or (pairs and count > 1)):
            rows.append(row)
    if all(row.label is None for row in rows):
        raise ManifestError(
            f"{path} has no labelled row in its {split} split: "
            f"{_explain_no_rows(path, kinds, split)}"
        )
    return rows


def _explain_no_rows(path: Path, kinds: Mapping[str, str], split: str) -> str:
    splits = {row.split or "(empty)" for row in read_rows(path, kinds)}
    if split in splits:
        return "none of its rows has both a label and a modality"
    return (
        f"its column `split` holds {', '.join(sorted(splits)[:10]) or 'nothing'}; the names of "
        f"splits are {', '.join(SPLITS)}"
    )


def report_unreadable(split: str, problems: Sequence[str]) -> None:
    """Tell the user how many cells of a split cannot be read, and why the first cannot."""
    if problems:
        print_status(
            f"{split}: {len(problems)} unreadable cells count as absent; the first: {problems[0]}"
        )


def table_sha256(path: Path) -> str:
    """Return the sha256 of a table, which identifies the data of a run.

    Raises:
        ManifestError: If the table cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
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
