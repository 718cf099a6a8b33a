"""Data for training: decoded once, kept preprocessed, collated with what is absent left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from dimml.errors import InputError, ManifestError
from dimml.modalities import Arrays, Kind
from dimml.progress import say, track
from dimml.runtime import available_cores
from dimml.samples import is_absent
from dimml.table import Row, read_rows
from train.augment import augment

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The preprocessed samples of one split.

    Attributes:
        items: per sample, modality name to its arrays; an absent modality is left out.
        labels: int64 [N].
    """

    items: Sequence[Mapping[str, Arrays]]
    labels: np.ndarray


@dataclass
class Batch:
    """A batch as the model takes it, see `DetachedModel.forward`.

    Attributes:
        inputs: modality to its graph inputs, present rows only.
        present: bool [N, M].
        labels: int64 [N].
    """

    inputs: dict[str, dict[str, Tensor]]
    present: Tensor
    labels: Tensor


def read_split(path: Path, kinds: Mapping[str, str], split: str) -> list[Row]:
    """The labelled rows of a split that have at least one modality.

    Raises:
        ManifestError: there are none.
    """
    rows = [
        row
        for row in read_rows(path, kinds, split)
        if row.label is not None and not all(is_absent(v) for v in row.sample.values())
    ]
    if not rows:
        raise ManifestError(f"{path} has no labelled row in its {split} split")
    return rows


def load_split(
    rows: Sequence[Row], kinds: Mapping[str, Kind], labels: Sequence[str], name: str
) -> Split:
    """Decodes and preprocesses rows; an unreadable cell counts as absent, and is reported.

    Raises:
        ManifestError: no row is readable, or one has a label that training did not see.
    """
    index = {label: number for number, label in enumerate(labels)}
    if unknown := sorted({str(row.label) for row in rows} - set(index)):
        raise ManifestError(f"the {name} split has labels the train split has not: {unknown[:5]}")
    items, kept, problems = [], [], []
    # The decoders and numpy release the interpreter, so threads share the arrays for nothing.
    with ThreadPoolExecutor(available_cores()) as pool:
        loaded = pool.map(lambda row: _load(row, kinds), rows)
        for row, (item, errors) in zip(
            rows, track(loaded, f"decoding {name}", len(rows)), strict=True
        ):
            problems += [f"{row.id}: {error}" for error in errors]
            if item:
                items.append(item)
                kept.append(index[str(row.label)])
    if problems:
        say(f"{name}: {len(problems)} unreadable cells count as absent; the first: {problems[0]}")
    if not items:
        raise ManifestError(f"no row of the {name} split could be read")
    return Split(items, np.asarray(kept, np.int64))


def fingerprint(path: Path) -> str:
    """The sha256 of a table: which data a run was trained on."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        strengths: modality to augmentation strength; an empty mapping for none.
        seed: of the augmentation.
    """

    def __init__(self, split: Split, strengths: Mapping[str, float], seed: int) -> None:
        self.split = split
        self.strengths = strengths
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Mapping[str, Arrays], int]:
        epoch, index = key
        item = self.split.items[index]
        if self.strengths:
            random = np.random.default_rng([self.seed, epoch, index])
            item = {name: augment(a, self.strengths[name], random) for name, a in item.items()}
        return item, int(self.split.labels[index])


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs, shuffled by the seed and the epoch alone, or in order."""

    def __init__(self, length: int, seed: int, shuffle: bool) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Lightning tells the epoch, also after a resume."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        return ((self.epoch, int(index)) for index in order)


class Collate:
    """Joins samples into a `Batch`; absent modalities take no room in it.

    Args:
        kinds: the modalities.
        training: whether batch normalisation will see the batch, which needs two samples.
    """

    def __init__(self, kinds: Mapping[str, Kind], training: bool) -> None:
        self.kinds = kinds
        self.fewest = 2 if training else 1

    def __call__(self, samples: Sequence[tuple[Mapping[str, Arrays], int]]) -> Batch:
        present = np.zeros((len(samples), len(self.kinds)), bool)
        inputs: dict[str, dict[str, Tensor]] = {}
        for slot, (name, kind) in enumerate(self.kinds.items()):
            rows = [row for row, (item, _) in enumerate(samples) if name in item]
            if len(rows) < self.fewest:
                continue
            present[rows, slot] = True
            arrays = kind.collate([samples[row][0][name] for row in rows])
            inputs[name] = {key: torch.from_numpy(value) for key, value in arrays.items()}
        labels = torch.tensor([label for _, label in samples])
        return Batch(inputs, torch.from_numpy(present), labels)


def _load(row: Row, kinds: Mapping[str, Kind]) -> tuple[dict[str, Any], list[InputError]]:
    item: dict[str, Any] = {}
    errors = []
    for name, kind in kinds.items():
        if not is_absent(value := row.sample[name]):
            try:
                item[name] = kind.preprocess(kind.decode(value))
            except InputError as error:
                errors.append(error)
    return item, errors
