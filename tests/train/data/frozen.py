"""Rows of a few texts and images, and frozen encoders for them that count what they encode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dimml.modalities import KINDS
from dimml.table import Row
from tests.train.pretrained.refusals import read
from train.data.cache import Split, cached_split
from train.data.features import FrozenEncoder
from train.data.store import FeatureStore, open_store

LABELS = ("high", "low")


class CountingEncoder(FrozenEncoder):
    """A frozen encoder that counts the values that pass its backbone.

    Attributes:
        encoded: Number of values so far.
        stop_after: Number of batches after which a Ctrl-C comes.
    """

    encoded = 0
    stop_after: int | None = None

    def _run(self, inputs: Any) -> np.ndarray:
        if self.stop_after is not None:
            if not self.stop_after:
                raise KeyboardInterrupt
            self.stop_after -= 1
        self.encoded += len(next(iter(inputs.values())))
        return super()._run(inputs)


def make_encoder(
    folder: Path, kind: str, cache: Path, identity: str = "0", **settings: Any
) -> CountingEncoder:
    """Return the frozen encoder of the model in a folder, with a store in `cache`."""
    preprocessing = {"seconds": 1.0} if "whisper" in folder.name else {}
    model = read(folder, kind, preprocessing=preprocessing)
    store: FeatureStore = open_store(cache, model.settings.model, identity)
    values = KINDS[kind]("input", dict(model.preprocessing), model.assets)
    return CountingEncoder(values, model, store, **settings)


def split_of(
    encoder: FrozenEncoder, values: list[Any], cache: Path, name: str = "train", settings: str = ""
) -> Split:
    """Return the split of rows with these values."""
    rows = [Row(str(n), name, LABELS[n % 2], {"input": value}) for n, value in enumerate(values)]
    kinds, frozen = {"input": encoder.kind}, {"input": encoder}
    return cached_split(rows, kinds, LABELS, name, cache, settings, frozen)


def features_of(split: Split) -> np.ndarray:
    """Return the features [N, views, width] of a split."""
    return np.stack([split[n]["input"]["features"] for n in range(len(split))])


def write_images(folder: Path, count: int) -> list[Path]:
    """Write images of many shapes, and return their paths."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        pixels = random.integers(0, 256, (40 + number % 7, 50, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path)
    return paths


def texts(count: int) -> list[str]:
    """Return texts of several lengths, all different."""
    words = ("zero", "one", "two", "three", "red", "blue")
    return [
        " ".join([words[n % 6], words[n // 6 % 6], words[n // 36 % 6], *("it",) * (n % 8)])
        for n in range(count)
    ]
