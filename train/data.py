"""Data for training: which rows, in which order, collated with what is absent left out."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dimml.errors import ManifestError
from dimml.modalities import Arrays, Audio, Kind
from dimml.nn.model import Group
from dimml.samples import is_absent
from dimml.table import Row, column_names, missing_columns, read_rows
from train.augment import augment
from train.cache import UNLABELLED, Split

SPLITS = ("train", "validation", "test")


@dataclass
class Batch:
    """A batch as the model takes it, see `DetachedModel.forward`.

    Attributes:
        inputs: modality to the graph inputs of its present rows, in groups of equal shapes.
        present: bool [N, M].
        labels: int64 [N], `UNLABELLED` where a row has none.
    """

    inputs: dict[str, list[Group]]
    present: Tensor
    labels: Tensor


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


def fingerprint(path: Path) -> str:
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


class SplitDataset(Dataset[tuple[Mapping[str, Arrays], int]]):
    """A split for a `DataLoader`; its keys are (epoch, index), so that augmentation is repeatable.

    Args:
        split: the samples.
        kinds: the modalities.
        strengths: modality to augmentation strength; an empty mapping for none.
        seed: of the augmentation.
        rows: those of the split that take part, some perhaps several times; None for each once.
    """

    def __init__(
        self,
        split: Split,
        kinds: Mapping[str, Kind],
        strengths: Mapping[str, float],
        seed: int,
        rows: np.ndarray | None = None,
    ) -> None:
        self.split = split
        self.rows = np.arange(len(split)) if rows is None else rows
        self.kinds = kinds
        self.strengths = strengths
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Mapping[str, Arrays], int]:
        epoch, index = key
        row = int(self.rows[index])
        item = self.split[row]
        if self.strengths:
            random = np.random.default_rng([self.seed, epoch, index])
            item = {
                name: augment(self.kinds[name], arrays, self.strengths[name], random)
                for name, arrays in item.items()
            }
        return item, int(self.split.labels[row])


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


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs, shuffled by the seed and the epoch alone, or in order.

    Args:
        length: of the split.
        seed: of the order.
        shuffle: whether the order changes.
        share: this device's number, how many there are, and the size of a batch of all: each
            takes an equal part of every batch; of the last one, what cannot be shared is left out.
    """

    def __init__(
        self, length: int, seed: int, shuffle: bool, share: tuple[int, int, int] = (0, 1, 1)
    ) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.share = share
        self.epoch = 0

    def __len__(self) -> int:
        _, devices, size = self.share
        return self.length // size * (size // devices) + self.length % size // devices

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        device, devices, size = self.share
        for batch in np.split(order, range(size, self.length, size)):
            shared = len(batch) // devices * devices
            yield from ((self.epoch, int(index)) for index in batch[device:shared:devices])


class Collate:
    """Joins samples into a `Batch`; absent modalities take no room in it.

    Args:
        kinds: the modalities.
        training: whether batch normalisation will see the batch. It needs at least two samples of
            one shape, so recordings keep the middle of the length that the batch's shortest has.
    """

    def __init__(self, kinds: Mapping[str, Kind], training: bool) -> None:
        self.kinds = kinds
        self.training = training

    def __call__(self, samples: Sequence[tuple[Mapping[str, Arrays], int]]) -> Batch:
        present = np.zeros((len(samples), len(self.kinds)), bool)
        inputs: dict[str, list[Group]] = {}
        for slot, (name, kind) in enumerate(self.kinds.items()):
            rows = [row for row, (item, _) in enumerate(samples) if name in item]
            if len(rows) < (2 if self.training else 1):
                continue
            items = [samples[row][0][name] for row in rows]
            if self.training and isinstance(kind, Audio):
                items = _equally_long(items)
            present[rows, slot] = True
            inputs[name] = _groups(kind, rows, items)
        labels = torch.tensor([label for _, label in samples])
        return Batch(inputs, torch.from_numpy(present), labels)


def _groups(kind: Kind, rows: Sequence[int], items: Sequence[Arrays]) -> list[Group]:
    buckets: dict[object, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        buckets[kind.bucket(item)].append(number)
    return [
        Group(
            torch.tensor([rows[number] for number in numbers]),
            {
                key: torch.from_numpy(array)
                for key, array in kind.collate([items[number] for number in numbers]).items()
            },
        )
        for numbers in buckets.values()
    ]


def _equally_long(items: Sequence[Arrays]) -> list[Arrays]:
    frames = min(item["power"].shape[1] for item in items)
    starts = [(item["power"].shape[1] - frames) // 2 for item in items]
    return [
        {"power": item["power"][:, start : start + frames]}
        for item, start in zip(items, starts, strict=True)
    ]
