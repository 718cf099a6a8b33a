"""Random augmentation of preprocessed training samples. Nothing outside training is random."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import PIL.Image
import pydantic

from dimml.modalities import Arrays, Audio, Flow, Image, Kind, Text
from train.encoder_config import RecipePart

CROP_RATIO = 4 / 3
"""The window of a crop is at most this much wider or higher than in the picture's own ratio."""


class Augmentation(RecipePart):
    """The random changes of a modality's training samples.

    Attributes:
        strength: Strength of shifts, masks and noise, 0 (none) to 1.
        crop: Smallest share of a picture's area that is cut out at random and resized to the
            picture's size, one window for all frames of a clip; None cuts nothing out.
        mirror: Whether half of the pictures and clips are mirrored.
    """

    strength: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.5
    crop: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None
    mirror: bool = False

    @property
    def changes(self) -> bool:
        """Whether there is any random change."""
        return self.strength > 0 or self.crop is not None or self.mirror

    @property
    def key(self) -> str:
        """Text that differs between augmentations."""
        window = f" crop {self.crop} mirror {self.mirror}" if self.crop or self.mirror else ""
        return f"{self.strength}{window}"


NO_AUGMENTATION = Augmentation(strength=0)


def augment(
    kind: Kind, arrays: Arrays, config: Augmentation, random: np.random.Generator
) -> Arrays:
    """Return a randomly changed copy of a sample's arrays, with the same shapes and types.

    Args:
        kind: The modality.
        arrays: The result of its `preprocess`.
        config: The changes.
        random: The only source of randomness.
    """
    changed = {name: array.copy() for name, array in arrays.items()}
    if "features" in changed and config.changes:
        views = changed["features"]
        changed["features"] = views[[int(random.integers(len(views)))]]
        return changed
    if isinstance(kind, Image | Flow):
        name = kind.input_names[0]
        if config.crop is not None:
            changed[name] = _crop(changed[name], config.crop, random)
        if config.mirror and random.random() < 0.5:
            changed[name] = _mirror(kind, changed[name])
    return _disturb(kind, changed, config.strength, random) if config.strength else changed


def _disturb(kind: Kind, changed: Arrays, strength: float, random: np.random.Generator) -> Arrays:
    if "waveform" in changed:
        changed["waveform"] = _shift_and_mute(changed["waveform"], strength, random)
    elif isinstance(kind, Audio):
        changed["power"] = _mask_spectrogram(changed["power"], strength, random)
    elif isinstance(kind, Image):
        changed["pixels"] = _shift_and_erase(changed["pixels"], strength, random)
    elif isinstance(kind, Flow):
        changed["flow"] = _shift_and_erase(changed["flow"], strength, random)
    elif isinstance(kind, Text) and kind.unknown_id is not None:
        changed["input_ids"] = _drop_tokens(
            changed["input_ids"], kind.special_ids, kind.unknown_id, strength, random
        )
    return changed


def _crop(pixels: np.ndarray, smallest: float, random: np.random.Generator) -> np.ndarray:
    """Cut one window out of all planes of [..., height, width], and resize it to their size.

    Source: the random resized crop of Szegedy et al., 1409.4842.
    """
    height, width = pixels.shape[-2:]
    area = random.uniform(smallest, 1.0)
    ratio = math.exp(random.uniform(-math.log(CROP_RATIO), math.log(CROP_RATIO)))
    window = (width * min(1.0, math.sqrt(area * ratio)), height * min(1.0, math.sqrt(area / ratio)))
    left, top = random.uniform(0, width - window[0]), random.uniform(0, height - window[1])
    box = (left, top, left + window[0], top + window[1])
    planes = [
        PIL.Image.fromarray(plane).resize((width, height), PIL.Image.Resampling.BILINEAR, box)
        for plane in pixels.reshape(-1, height, width)
    ]
    return np.stack([np.asarray(plane) for plane in planes]).reshape(pixels.shape)


def _mirror(kind: Image | Flow, pixels: np.ndarray) -> np.ndarray:
    """Mirror [..., height, width] from left to right."""
    mirrored = np.ascontiguousarray(pixels[..., ::-1])
    if isinstance(kind, Flow):
        # Motion to the right becomes motion to the left: a brightness p of u becomes 1 - p.
        mean, std = kind.config.mean, kind.config.std
        mirrored[:, 0] = (1 - 2 * mean) / std - mirrored[:, 0]
    return mirrored


def _mask_spectrogram(
    power: np.ndarray, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Shift [bins, frames] in time, then mask a band and a moment (SpecAugment, 1904.08779)."""
    bins, frames = power.shape
    reach = int(frames * 0.2 * strength)
    changed = np.roll(power, int(random.integers(-reach, reach + 1)), axis=1)
    floor = changed.min()
    width = int(random.integers(0, int(bins * 0.2 * strength) + 1))
    start = int(random.integers(0, bins - width + 1))
    changed[start : start + width] = floor
    width = int(random.integers(0, int(frames * 0.2 * strength) + 1))
    start = int(random.integers(0, frames - width + 1))
    changed[:, start : start + width] = floor
    return changed


def _shift_and_mute(
    samples: np.ndarray, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Shift [samples] in time, change the level by up to 6 dB, add noise, and mute a moment."""
    length = len(samples)
    reach = int(length * 0.2 * strength)
    changed = np.roll(samples, int(random.integers(-reach, reach + 1)))
    changed *= np.float32(10 ** (random.uniform(-6, 6) * strength / 20))
    noise = 0.02 * strength * random.random() * float(np.abs(samples).max(initial=0.0))
    changed += (noise * random.standard_normal(length)).astype(np.float32)
    width = int(random.integers(0, int(length * 0.1 * strength) + 1))
    start = int(random.integers(0, length - width + 1))
    changed[start : start + width] = 0.0
    return changed


def _shift_and_erase(
    pixels: np.ndarray, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Shift [..., height, width] and blank a rectangle, both alike in all frames of a clip."""
    height, width = pixels.shape[-2:]
    reach = max(1, int(min(height, width) * 0.12 * strength))
    down, right = random.integers(-reach, reach + 1, size=2)
    changed = np.roll(pixels, (int(down), int(right)), axis=(-2, -1))
    size = random.integers(0, max(2, int(min(height, width) * 0.4 * strength)), size=2)
    top = int(random.integers(0, height - size[0] + 1))
    left = int(random.integers(0, width - size[1] + 1))
    changed[..., top : top + size[0], left : left + size[1]] = pixels.mean()
    return changed


def _drop_tokens(
    ids: np.ndarray, special: list[int], unknown: int, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Replace random tokens of [tokens] by the unknown token, but no special token."""
    chosen = (random.random(len(ids)) < 0.2 * strength) & ~np.isin(ids, special)
    return np.where(chosen, unknown, ids)
