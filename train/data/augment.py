"""Random augmentation of preprocessed training samples. Nothing outside training is random."""

from __future__ import annotations

import numpy as np

from dimml.modalities import Arrays, Audio, Flow, Image, Kind, Text


def augment(kind: Kind, arrays: Arrays, strength: float, random: np.random.Generator) -> Arrays:
    """Return a randomly changed copy of a sample's arrays, with the same shapes and types.

    Args:
        kind: The modality.
        arrays: The result of its `preprocess`.
        strength: 0 (no change) to 1.
        random: The only source of randomness.
    """
    changed = {name: array.copy() for name, array in arrays.items()}
    if strength == 0:
        return changed
    if "features" in changed:
        views = changed["features"]
        changed["features"] = views[[int(random.integers(len(views)))]]
    elif "waveform" in changed:
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
