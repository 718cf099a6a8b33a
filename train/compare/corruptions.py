"""Corruption of test samples at three levels, from mild to severe.

- audio: `noise`, white Gaussian noise added to the waveform before the spectrogram, at a signal to
  noise ratio of 20, 10 or 0 dB of the whole recording.
- image: `blur`, Gaussian, its radius 2, 4 or 8 % of the shorter side; `noise`, Gaussian, a standard
  deviation of 0.1, 0.2 or 0.4 of the full range; `occlusion`, a grey square over 10, 25 or 50 % of
  the area. Before the resizing.
- text: `characters`, each letter or digit replaced by a random one of the 26 letters with a
  probability of 10, 25 or 50 %; `words`, each word dropped with a probability of 10, 25 or 50 %, of
  a text of one word that share of its characters, and never all.

What happens to a sample follows from its content and the kind of corruption alone, so every method
and every seed sees the same.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFilter

from dimml.modalities import Arrays, Kind
from dimml.modalities.audio import Recording

LEVELS = (1, 2, 3)
DECIBELS = (20.0, 10.0, 0.0)
BLUR = (0.02, 0.04, 0.08)
DEVIATION = (0.1, 0.2, 0.4)
AREA = (0.1, 0.25, 0.5)
PROBABILITY = (0.1, 0.25, 0.5)
_GREY = 127


def audio_noise(recording: Recording, level: int, random: np.random.Generator) -> Recording:
    """The recording in white noise, clipped nowhere."""
    samples = recording.samples
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    deviation = np.sqrt(power / 10 ** (DECIBELS[level - 1] / 10))
    noise = random.standard_normal(len(samples)) * deviation
    return replace(recording, samples=(samples + noise).astype(np.float32))


def image_blur(image: PIL.Image.Image, level: int, random: np.random.Generator) -> PIL.Image.Image:
    """The picture out of focus."""
    radius = BLUR[level - 1] * min(image.size)
    return image.filter(PIL.ImageFilter.GaussianBlur(radius))


def image_noise(image: PIL.Image.Image, level: int, random: np.random.Generator) -> PIL.Image.Image:
    """The picture with noise on every pixel and channel."""
    pixels = np.asarray(image, np.float32)
    noisy = pixels + random.standard_normal(pixels.shape) * (255 * DEVIATION[level - 1])
    return PIL.Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def image_occlusion(
    image: PIL.Image.Image, level: int, random: np.random.Generator
) -> PIL.Image.Image:
    """The picture behind a grey patch of its own proportions, anywhere inside it."""
    share = np.sqrt(AREA[level - 1])
    width, height = (max(1, round(side * share)) for side in image.size)
    left = int(random.integers(0, image.width - width + 1))
    top = int(random.integers(0, image.height - height + 1))
    covered = image.copy()
    grey = _GREY if image.mode == "L" else (_GREY,) * 3
    covered.paste(grey, (left, top, left + width, top + height))
    return covered


def text_characters(text: str, level: int, random: np.random.Generator) -> str:
    """The text with typing errors."""
    changed = random.random(len(text)) < PROBABILITY[level - 1]
    letters = random.integers(0, len(string.ascii_lowercase), len(text))
    return "".join(
        string.ascii_lowercase[letter] if change and character.isalnum() else character
        for character, change, letter in zip(text, changed, letters, strict=True)
    )


def text_words(text: str, level: int, random: np.random.Generator) -> str:
    """The text without some of its words, or one word without some of its characters."""
    words = text.split()
    parts, glue = (words, " ") if len(words) > 1 else (list(text.strip()), "")
    kept = random.random(len(parts)) >= PROBABILITY[level - 1]
    kept[int(random.integers(0, len(parts)))] |= not kept.any()
    return glue.join(part for part, keep in zip(parts, kept, strict=True) if keep)


CORRUPTIONS: dict[str, dict[str, Callable[..., Any]]] = {
    "audio": {"noise": audio_noise},
    "image": {"blur": image_blur, "noise": image_noise, "occlusion": image_occlusion},
    "text": {"characters": text_characters, "words": text_words},
}
"""Kind of modality to corruption to function of the decoded value (of a text itself)."""


class Corrupted:
    """A kind whose values come out corrupted; for the rest the kind itself.

    Args:
        kind: the modality.
        name: its kind, a key of `CORRUPTIONS`.
        corruption: a key of that.
        level: one of `LEVELS`.
    """

    def __init__(self, kind: Kind, name: str, corruption: str, level: int) -> None:
        self._kind = kind
        self._is_text = name == "text"
        self._function = CORRUPTIONS[name][corruption]
        self._level = level
        self._salt = zlib.crc32(corruption.encode())

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._kind, attribute)

    def decode(self, value: Any) -> Any:
        """As the kind's, of a text with the corruption in it."""
        if not self._is_text:
            return self._kind.decode(value)
        text = value if isinstance(value, str) else self._kind.read_bytes(value).decode("utf-8-sig")
        changed = self._function(text, self._level, self._random(text.encode()))
        return self._kind.decode(changed)

    def preprocess(self, raw: Any) -> Arrays:
        """As the kind's, of a recording or pictures with the corruption in them."""
        if self._is_text:
            return self._kind.preprocess(raw)
        if isinstance(raw, list):
            changed: Any = [self._function(f, self._level, self._random(f.tobytes())) for f in raw]
        else:
            changed = self._function(raw, self._level, self._random(raw.samples.tobytes()))
        return self._kind.preprocess(changed)

    def _random(self, content: bytes) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(content), self._salt])
