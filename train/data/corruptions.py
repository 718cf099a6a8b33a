"""Corruption of samples at three levels, from mild to severe, and the corrupted test split.

What happens to a sample follows from its content and the corruption alone, so every method and
every seed sees the same.
"""

from __future__ import annotations

import json
import string
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import PIL.ImageFilter
import torch
from torch import Tensor

from dimml.errors import ManifestError
from dimml.modalities import Arrays, Kind
from dimml.modalities.audio import Recording
from dimml.table import Row
from train.data.cache import Split, cached_split
from train.data.prepare import PreparedData
from train.data.splits import read_split
from train.recipe import Recipe

LEVELS = (1, 2, 3)
GREY = 127

CorruptionKey = tuple[str, str, int]
"""Modality, corruption and level."""


def audio_noise(recording: Recording, decibels: float, random: np.random.Generator) -> Recording:
    """Add white Gaussian noise at a signal-to-noise ratio in dB; nothing is clipped."""
    samples = recording.samples
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    noise = random.standard_normal(len(samples)) * np.sqrt(power / 10 ** (decibels / 10))
    return replace(recording, samples=(samples + noise).astype(np.float32))


def image_blur(image: PIL.Image.Image, radius: float, _: np.random.Generator) -> PIL.Image.Image:
    """Blur with a Gaussian whose radius is a share of the shorter side."""
    return image.filter(PIL.ImageFilter.GaussianBlur(radius * min(image.size)))


def image_noise(
    image: PIL.Image.Image, deviation: float, random: np.random.Generator
) -> PIL.Image.Image:
    """Add Gaussian noise to every pixel and channel, its deviation a share of the full range."""
    pixels = np.asarray(image, np.float32)
    noisy = pixels + random.standard_normal(pixels.shape) * (255 * deviation)
    return PIL.Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def image_occlusion(
    image: PIL.Image.Image, area: float, random: np.random.Generator
) -> PIL.Image.Image:
    """Cover a share of the area with a grey patch of the image's proportions."""
    width, height = (max(1, round(side * np.sqrt(area))) for side in image.size)
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    covered = image.copy()
    grey = GREY if image.mode == "L" else (GREY,) * 3
    covered.paste(grey, (left, top, left + width, top + height))
    return covered


def text_characters(text: str, probability: float, random: np.random.Generator) -> str:
    """Replace each letter or digit, with a probability, by a random one of the 26 letters."""
    changed = random.random(len(text)) < probability
    letters = random.integers(0, len(string.ascii_lowercase), len(text))
    return "".join(
        string.ascii_lowercase[letter] if change and character.isalnum() else character
        for character, change, letter in zip(text, changed, letters, strict=True)
    )


def text_words(text: str, probability: float, random: np.random.Generator) -> str:
    """Drop each word (of a single word, each character) with a probability, but never all."""
    words = text.split()
    parts, glue = (words, " ") if len(words) > 1 else (list(text.strip()), "")
    kept = random.random(len(parts)) >= probability
    kept[int(random.integers(0, len(parts)))] |= not kept.any()
    return glue.join(part for part, keep in zip(parts, kept, strict=True) if keep)


_Corruptions = dict[str, tuple[Callable[..., Any], tuple[float, ...]]]
_OF_PICTURES: _Corruptions = {
    "blur": (image_blur, (0.02, 0.04, 0.08)),
    "noise": (image_noise, (0.1, 0.2, 0.4)),
    "occlusion": (image_occlusion, (0.1, 0.25, 0.5)),
}
CORRUPTIONS: dict[str, _Corruptions] = {
    "audio": {"noise": (audio_noise, (20.0, 10.0, 0.0))},
    "image": _OF_PICTURES,
    "flow": _OF_PICTURES,
    "text": {
        "characters": (text_characters, (0.1, 0.25, 0.5)),
        "words": (text_words, (0.1, 0.25, 0.5)),
    },
}
"""For each kind and corruption, the function of a decoded value and its strength at each level."""


@dataclass(frozen=True)
class TestSplit:
    """The decoded test split, clean and corrupted.

    Attributes:
        rows: The rows of the clean samples.
        labels: Class names in order.
        decoders: Modality to the kind of the values in the rows.
        kinds: Modality to the kind of what the splits hold.
        clean: The whole split.
        full: bool [N], the rows that have every modality.
        corrupted: One modality of the full rows, corrupted.
    """

    rows: Sequence[Row]
    labels: tuple[str, ...]
    decoders: Mapping[str, Kind]
    kinds: Mapping[str, Kind]
    clean: Split
    full: Tensor
    corrupted: Mapping[CorruptionKey, Split]


class CorruptedKind:
    """A kind whose values are corrupted; in everything else it behaves as the kind.

    Args:
        kind: The modality.
        name: The name of its kind, a key of `CORRUPTIONS`.
        corruption: A key of `CORRUPTIONS[name]`.
        level: One of `LEVELS`.
    """

    def __init__(self, kind: Kind, name: str, corruption: str, level: int) -> None:
        self._kind = kind
        self._is_text = name == "text"
        self._function, strengths = CORRUPTIONS[name][corruption]
        self._strength = strengths[level - 1]
        self._salt = zlib.crc32(corruption.encode())

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._kind, attribute)

    def decode(self, value: Any) -> Any:
        """Decode a value; a text is corrupted before the tokenizer sees it."""
        if not self._is_text:
            return self._kind.decode(value)
        text = value if isinstance(value, str) else self._kind.read_bytes(value).decode("utf-8-sig")
        return self._kind.decode(self._corrupt(text, text.encode()))

    def preprocess(self, raw: Any) -> Arrays:
        """Preprocess a decoded value; recordings and images are corrupted before that."""
        return self._kind.preprocess(self._corrupted(raw))

    def compact(self, raw: Any) -> Arrays:
        """Return the compact arrays of a corrupted value."""
        return self._kind.compact(self._corrupted(raw))

    def _corrupted(self, raw: Any) -> Any:
        if isinstance(raw, list) and not self._is_text:
            raw = [self._corrupt(frame, frame.tobytes()) for frame in raw]
        elif not self._is_text:
            raw = self._corrupt(raw, raw.samples.tobytes())
        return raw

    def _corrupt(self, value: Any, content: bytes) -> Any:
        random = np.random.default_rng([zlib.crc32(content), self._salt])
        return self._function(value, self._strength, random)


def read_test_split(recipe: Recipe, prepared: PreparedData, cache: Path) -> TestSplit:
    """Decode the test split, clean and with every corruption, once for all methods and seeds.

    Raises:
        ManifestError: If there is no test split.
    """
    rows = read_split(recipe.source, "test")
    labels, settings = prepared.labels, prepared.settings
    frozen = {name: encoder.without_views() for name, encoder in prepared.frozen.items()}
    clean = cached_split(rows, prepared.kinds, labels, "test", cache, settings, frozen)
    full = clean.present.all(axis=1)
    readable = [rows[number] for number in clean.rows]
    full_rows = [readable[number] for number in np.flatnonzero(full)]
    corrupted = _corrupted_splits(recipe, prepared, full_rows, cache) if full_rows else {}
    for encoder in frozen.values():
        encoder.release()
    return TestSplit(
        readable,
        labels,
        prepared.kinds,
        prepared.stored,
        clean,
        torch.from_numpy(full),
        corrupted,
    )


def _corrupted_splits(
    recipe: Recipe, prepared: PreparedData, rows: list[Row], cache: Path
) -> dict[CorruptionKey, Split]:
    splits = {}
    strengths = {k: {c: s for c, (_, s) in v.items()} for k, v in CORRUPTIONS.items()}
    settings = json.dumps(strengths) + prepared.settings
    keys = (
        (name, modality.kind, corruption, level)
        for name, modality in recipe.modalities.items()
        for corruption in CORRUPTIONS[modality.kind]
        for level in LEVELS
    )
    for name, kind, corruption, level in keys:
        corrupted = cast(Kind, CorruptedKind(prepared.kinds[name], kind, corruption, level))
        label = f"test.{name}.{corruption}.{level}"
        frozen = {
            n: encoder.without_views(corrupted, label)
            for n, encoder in prepared.frozen.items()
            if n == name
        }
        split = cached_split(
            rows, {name: corrupted}, prepared.labels, label, cache, settings, frozen
        )
        if len(split) != len(rows):
            raise ManifestError(f"{label}: a cell cannot be read after its corruption")
        splits[name, corruption, level] = split
    return splits
