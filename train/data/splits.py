"""The rows of a training run: which of a table take part, and why others do not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from dimml.errors import ManifestError
from dimml.samples import is_absent
from dimml.table import Row, column_names, missing_columns, read_rows
from train.methods.base import UNLABELLED

SPLITS = ("train", "validation", "test")


def read_training_splits(path: Path, kinds: Mapping[str, str]) -> dict[str, list[Row]]:
    """The rows that training needs, by split, refused here where they cannot make a classifier.

    Those of the train split without a label are among them, where they have two modalities or more:
    one can teach the other.

    Raises:
        ManifestError: a modality has no column or too few rows, there are fewer than two labels, or
            the validation split has one that the train split has not.
    """
    if missing := missing_columns(column_names(path), kinds):
        raise ManifestError(
            f"{missing.message(path)}; a modality of a recipe has the name of its column"
        )
    rows = {
        "train": read_split(path, kinds, "train", pairs=True),
        "validation": read_split(path, kinds, "validation"),
    }
    labelled = [row for row in rows["train"] if row.label is not None]
    labels = {str(row.label) for row in labelled}
    if len(labels) < 2:
        raise ManifestError(
            f"the train split of {path} has one label, {labels.pop()}; a classifier needs two or "
            "more, each with a row in the train split"
        )
    if unknown := sorted({str(row.label) for row in rows["validation"]} - labels):
        raise ManifestError(
            f"the validation split of {path} has labels that its train split has not: "
            f"{', '.join(unknown[:5])}; give each a row in the train split"
        )
    for name in kinds:
        if sum(not is_absent(row.sample[name]) for row in labelled) < 2:
            raise ManifestError(
                f"{name}: fewer than two labelled rows of the train split of {path} have it; "
                "fill its column, or leave the modality out of the recipe"
            )
    return rows


def read_split(path: Path, kinds: Mapping[str, str], split: str, pairs: bool = False) -> list[Row]:
    """The labelled rows of a split that have at least one modality.

    Args:
        path: of the table.
        kinds: modality to its kind.
        split: its name.
        pairs: also the rows without a label that have two modalities or more.

    Raises:
        ManifestError: there is no labelled row.
    """
    if "label" not in column_names(path):
        raise ManifestError(
            f"{path} has no column `label`; its columns are {', '.join(column_names(path))}"
        )
    rows = []
    for row in read_rows(path, kinds, split):
        given = sum(not is_absent(value) for value in row.sample.values())
        if given and (row.label is not None or (pairs and given > 1)):
            rows.append(row)
    if all(row.label is None for row in rows):
        raise ManifestError(
            f"{path} has no labelled row in its {split} split: {_why_none(path, kinds, split)}"
        )
    return rows


def _why_none(path: Path, kinds: Mapping[str, str], split: str) -> str:
    found = {row.split or "(empty)" for row in read_rows(path, kinds)}
    if split in found:
        return "none of its rows has both a label and a modality"
    return (
        f"its column `split` holds {', '.join(sorted(found)[:10]) or 'nothing'}, and a split is "
        f"called {', '.join(SPLITS)}"
    )


def table_sha256(path: Path) -> str:
    """The sha256 of a table: which data a run was trained on.

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ManifestError(
            f"cannot read the table {path} ({error.strerror}); where a recipe's `data` is a "
            f"relative path, it starts at the current folder, {Path.cwd()}"
        ) from error


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> bytes:
    """A byte-pair tokenizer of lower-cased text, as the bytes of its `tokenizer.json`."""
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
    """The rows, int64 [n], of labels [N] that are not `UNLABELLED`."""
    return np.flatnonzero(labels != UNLABELLED)


def training_rows(labels: np.ndarray, unlabelled: bool) -> np.ndarray:
    """The rows of an epoch, int64 [n], of labels [N].

    All rows, those with a label as often as makes them about half where they are fewer. Without
    `unlabelled`, those with a label take the places of the others too: every method takes equally
    many steps.
    """
    labelled, rest = labelled_rows(labels), np.flatnonzero(labels == UNLABELLED)
    repeats = max(1, round(len(rest) / len(labelled)))
    mixed = np.concatenate([np.tile(labelled, repeats), rest])
    return mixed if unlabelled else np.resize(labelled, len(mixed))
