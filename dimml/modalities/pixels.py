"""Pixels of any depth, orientation and transparency become upright 8-bit pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

# Tags of TIFF.
_NEW_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50_706


class Pictures(list[PIL.Image.Image]):
    """The decoded pictures of a value; `notes` are for the user."""

    notes: tuple[str, ...] = ()


def evenly_spaced(available: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices of `available` frames, with repeats if too few."""
    # The middle of each of `count` equal parts.
    return [(2 * step + 1) * available // (2 * count) for step in range(count)]


def flatten(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Return an image upright, on a white background and in a mode of 8 bits."""
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert(mode)


def to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale integer or floating-point pixels to 8 bits, by the range that their values are in.

    A file does not say which values are black and white, so the smallest range that holds all of
    its values counts: 0..1 for floats, 0..255, 0..65535 for integers. Pixels in none of them are
    scaled linearly from their minimum to their maximum. NaN is black.
    """
    values = np.asarray(image, np.float32)
    finite = values[np.isfinite(values)]
    low, high = _black_and_white(image.mode, finite) if finite.size else (0.0, 1.0)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    # Tiny ranges would overflow the scale. The two products do not overflow, unlike `high - low`.
    scale = 255.0 / max(high - low, 1e-30)
    return PIL.Image.fromarray(np.clip(values * scale - low * scale, 0, 255).astype(np.uint8))


def _black_and_white(mode: str, values: np.ndarray) -> tuple[float, float]:
    """Return the values that become black and white."""
    low, high = float(values.min()), float(values.max())
    ranges = {"F": (1.0, 255.0), "I": (255.0, 65_535.0)}.get(mode, (65_535.0,))
    if low >= 0:
        for white in ranges:
            if high <= white:
                return 0.0, white
    # Equal values become black, whatever they are.
    return (low, high) if low < high else (low, low + max(1.0, abs(low)))


def extrema(image: PIL.Image.Image) -> list[tuple[int, int]]:
    """Return the minimum and the maximum of each channel of an 8-bit image."""
    found: Any = image.getextrema()
    return list(found) if image.mode == "RGB" else [found]


def is_camera_raw(image: PIL.Image.Image) -> bool:
    """Return whether a TIFF is a camera's raw file, whose first image is a small preview."""
    tags = getattr(image, "tag_v2", {})
    is_preview = bool(tags.get(_NEW_SUBFILE_TYPE, 0) & 1)
    return _DNG_VERSION in tags or (is_preview and _SUB_IFDS in tags)
