"""Batches: the rows of a split in a repeatable order, collated without absent modalities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dimml.modalities import Arrays, Kind
from dimml.nn.model import EncoderInputs
from train.data.augment import Augmentation, augment
from train.data.cache import Split
from train.data.splits import labelled_rows, training_rows
from train.recipe import Recipe


class Batch(NamedTuple):
    """The input of `MultimodalModel.forward`, and the labels.

    A named tuple, because PyTorch's loader copies only the tensors of built-in collections to
    page-locked memory.

    Attributes:
        inputs: Modality to the graph inputs of the rows that have it, in groups of equal shapes.
        present: bool [N, M].
        labels: int64 [N], `UNLABELLED` for a row without a label.
    """

    inputs: dict[str, list[EncoderInputs]]
    present: Tensor
    labels: Tensor


class SplitDataset(Dataset[tuple[Mapping[str, Arrays], int]]):
    """A split whose keys are (epoch, index), so that augmentation is repeatable.

    Args:
        split: The samples.
        kinds: Modality to kind.
        changes: Modality to its augmentation; an empty mapping for none.
        seed: The seed of the augmentation.
        rows: The rows of the split that take part, possibly repeated; None for each row once.
    """

    def __init__(
        self,
        split: Split,
        kinds: Mapping[str, Kind],
        changes: Mapping[str, Augmentation],
        seed: int,
        rows: np.ndarray | None = None,
    ) -> None:
        self.split = split
        self.rows = np.arange(len(split)) if rows is None else rows
        self.kinds = kinds
        self.changes = changes
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Mapping[str, Arrays], int]:
        epoch, index = key
        row = int(self.rows[index])
        item = self.split[row]
        if self.changes:
            random = np.random.default_rng([self.seed, epoch, index])
            item = {
                name: augment(self.kinds[name], arrays, self.changes[name], random)
                for name, arrays in item.items()
            }
        return item, int(self.split.labels[row])


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs, in order or shuffled by nothing but the seed and the epoch.

    Args:
        length: Number of rows.
        seed: The seed of the order.
        shuffle: Whether to shuffle.
        share: The number of this device, the number of devices, and the size of their joint batch.
            Each device takes an equal part of every batch; a remainder of the last batch is left
            out.
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
        """Set the epoch; Lightning calls this before each epoch, also after a resume."""
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
    """Joins samples into a `Batch`; absent modalities take no space in it.

    Args:
        kinds: Modality to kind.
        training: Whether batch normalisation may see the batch. It needs at least two samples.
        cut: Modalities whose recordings are cut to the middle part as long as the shortest
            recording, because batch normalisation needs samples of one shape.
    """

    def __init__(
        self, kinds: Mapping[str, Kind], training: bool, cut: Collection[str] = ()
    ) -> None:
        self.kinds = kinds
        self.training = training
        self.cut = cut

    def __call__(self, samples: Sequence[tuple[Mapping[str, Arrays], int]]) -> Batch:
        present = np.zeros((len(samples), len(self.kinds)), bool)
        inputs: dict[str, list[EncoderInputs]] = {}
        for slot, (name, kind) in enumerate(self.kinds.items()):
            rows = [row for row, (item, _) in enumerate(samples) if name in item]
            if len(rows) < (2 if self.training else 1):
                continue
            items = [samples[row][0][name] for row in rows]
            if name in self.cut:
                items = _cut_to_shortest(items)
            present[rows, slot] = True
            inputs[name] = _groups(kind, rows, items)
        labels = torch.tensor([label for _, label in samples])
        return Batch(inputs, torch.from_numpy(present), labels)


def _groups(kind: Kind, rows: Sequence[int], items: Sequence[Arrays]) -> list[EncoderInputs]:
    buckets: dict[object, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        buckets[kind.bucket(item)].append(number)
    return [
        EncoderInputs(
            torch.tensor([rows[number] for number in numbers]),
            {
                key: torch.from_numpy(array)
                for key, array in kind.collate([items[number] for number in numbers]).items()
            },
        )
        for numbers in buckets.values()
    ]


def _cut_to_shortest(items: Sequence[Arrays]) -> list[Arrays]:
    frames = min(item["power"].shape[1] for item in items)
    starts = [(item["power"].shape[1] - frames) // 2 for item in items]
    return [
        {"power": item["power"][:, start : start + frames]}
        for item, start in zip(items, starts, strict=True)
    ]


class RunData(lightning.LightningDataModule):
    """The loaders of a run. Order and augmentation depend on the seed and the epoch alone.

    Args:
        recipe: The recipe of the run.
        kinds: Modality to the kind of what the splits hold.
        splits: The splits "train" and "validation".
        unlabelled: Whether training sees the rows of the train split that have no label.
    """

    def __init__(
        self,
        recipe: Recipe,
        kinds: Mapping[str, Kind],
        splits: Mapping[str, Split],
        unlabelled: bool,
    ) -> None:
        super().__init__()
        self.recipe, self.kinds = recipe, kinds
        self.unlabelled = unlabelled
        self._cut = [
            name
            for name, modality in recipe.modalities.items()
            if modality.kind == "audio" and modality.encoder.preset
        ]
        self.train, self.val = splits["train"], splits["validation"]

    def train_dataloader(self) -> Any:
        changes = {name: spec.augment for name, spec in self.recipe.modalities.items()}
        rows = training_rows(self.train.labels, self.unlabelled)
        return self._loader(self.train, rows, changes, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val, labelled_rows(self.val.labels), {}, training=False)

    def plain_train_dataloader(self) -> Any:
        """Return a loader of the labelled rows of the training split, in order, not augmented."""
        return self._loader(self.train, labelled_rows(self.train.labels), {}, training=False)

    def _loader(
        self, split: Split, rows: np.ndarray, changes: Mapping[str, Augmentation], training: bool
    ) -> Any:
        config = self.recipe.training
        workers = config.workers if training else 0
        devices = config.devices if training else 1
        # A loader that does not shuffle gives every row to each device, which needs all features.
        trainer: Any = self.trainer
        share = (trainer.global_rank if devices > 1 else 0, devices, config.batch_size)
        return DataLoader(
            SplitDataset(split, self.kinds, changes, self.recipe.seed, rows),
            batch_size=config.batch_size // devices,
            sampler=EpochSampler(len(rows), self.recipe.seed, training, share),
            collate_fn=Collate(self.kinds, training, self._cut if training else ()),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )
