"""Digits in three modalities: handwritten, spoken and spelled out in ten languages.

Images are distorted digits of scikit-learn's `load_digits`, clips are words of num2words that
espeak-ng speaks, and texts are such words with typing errors. Each modality alone is sometimes
ambiguous, and the distortions are independent, so combining modalities helps. The splits share no
source image and no speaker.
"""

from __future__ import annotations

import unicodedata
import wave
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dimml.errors import UsageError
from dimml.progress import track
from train.datasets import require
from train.datasets.output import MANIFEST, SPLITS, Cells, check_out, new_data_set, write_manifest
from train.datasets.speech import Voice, mix, resample, synthesize
from train.datasets.typos import misspell

ROWS: Mapping[str, int] = {"train": 4000, "validation": 1500, "test": 1500}
SOURCE_SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
EMPTY_RATE = 0.1
# While one thread waits for espeak-ng, which speaks one word at a time, the other draws an image.
THREADS = 2

# Languages: their names in num2words and their files in espeak-ng.
LANGUAGES = {
    "de": "gmw/de",
    "en": "gmw/en",
    "es": "roa/es",
    "fr": "roa/fr",
    "it": "roa/it",
    "nl": "gmw/nl",
    "pl": "zlw/pl",
    "pt": "roa/pt",
    "ru": "zle/ru",
    "sv": "gmq/sv",
}
# Voice variants of espeak-ng by split. All variants that sound alike are in the train split.
SPEAKERS: Mapping[str, tuple[str, ...]] = {
    split: tuple(names.split())
    for split, names in {
        "train": (
            "Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Mario Michael Nguyen Storm "
            "adam antonio aunty belinda benjamin boris croak david edward edward2 f1 f3 grandma "
            "grandpa gustave iven iven2 iven3 iven4 john klatt klatt2 klatt3 klatt4 klatt5 klatt6 "
            "linda m1 m3 m5 m6 max michel miguel mike2 norbert paul rob robert steph steph2 "
            "steph3 travis zac"
        ),
        "validation": "Alex Andrea Tweaky ed f2 f5 kaukovalta m2 m8 pablo sandro shelby",
        "test": (
            "Alicia AnxiousAndy Demonic Marco Mike anika f4 ian m4 m7 marcelo pedro quincy victor"
        ),
    }.items()
}

# These ranges set the difficulty. Small networks reach an accuracy of about 82 % on speech and 90 %
# on images and on words; all three modalities together reach more than 97 %.
SAMPLE_RATE = 16_000
CLIP_SECONDS = (0.9, 1.2)
WORDS_PER_MINUTE = (120, 220)
PITCH = (25, 75)
PITCH_RANGE = (25, 75)
LEVEL_DECIBELS = (-35.0, -15.0)
SNR_DECIBELS = (-2.0, 28.0)
NOISE_EXPONENTS = (-1.0, 0.0, 1.0, 2.0)

IMAGE_SIZE = 32
ROTATION_DEGREES = 20.0
SHIFT_PIXELS = 4.0
ZOOM = (0.75, 1.15)
INK = (0.4, 1.0)
PAPER = (0.0, 0.25)
IMAGE_NOISE = (0.02, 0.25)
OCCLUSION_RATE = 0.5
OCCLUSION_PIXELS = (8, 16)

Indices = NDArray[np.int64]
COLUMNS = ("id", "split", "label", "audio", "image", "text")


def write(out: Path, *, seed: int = 0, rows: Mapping[str, int] = ROWS) -> Path:
    """Write the data set into a folder, which appears when it is complete.

    The same seed and package versions give the same bytes. Row k of a split does not depend on the
    number of rows.

    Args:
        out: Folder to write, which does not exist or is empty.
        seed: Seed of all random numbers, 0 or more.
        rows: Split to the number of its rows.

    Returns:
        Path of the manifest.

    Raises:
        UsageError: If `out` is not empty, a package is missing, or an argument is out of range.
    """
    check_out(out, seed)
    _check_rows(rows)
    with new_data_set(out, ("audio", "image")) as folder:
        write_manifest(folder, COLUMNS, _write_rows(folder, seed, rows))
    return out / MANIFEST


def split_sources(seed: int) -> dict[str, dict[int, Indices]]:
    """Divide the source images among the splits, in the same proportions for each label.

    Returns:
        Split to label to indices into the arrays of `load_sources`; no index occurs twice.
    """
    rng = np.random.default_rng(seed)
    _, labels = load_sources()
    sources: dict[str, dict[int, Indices]] = {split: {} for split in SPLITS}
    for label in range(10):
        indices = rng.permutation(np.flatnonzero(labels == label))
        shares = np.cumsum([SOURCE_SHARES[split] for split in SPLITS[:-1]])
        parts = np.split(indices, np.round(shares * len(indices)).astype(int))
        for split, part in zip(SPLITS, parts, strict=True):
            sources[split][label] = part
    return sources


@lru_cache(maxsize=1)
def load_sources() -> tuple[NDArray[np.float64], Indices]:
    """Return handwritten digits: pixels [1797, 8, 8], 0 (paper) to 16 (ink), and labels [1797]."""
    digits = require("sklearn.datasets").load_digits()
    return digits.images, digits.target


@lru_cache(maxsize=len(LANGUAGES))
def number_words(language: str) -> tuple[str, ...]:
    """Return the words for the digits 0 to 9 in one of `LANGUAGES`."""
    num2words = require("num2words").num2words
    return tuple(unicodedata.normalize("NFC", num2words(n, lang=language)) for n in range(10))


def draw_image(source: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Scale a source image [8, 8] to [32, 32], and rotate, shift, fade, occlude and add noise."""
    angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix *= len(source) / IMAGE_SIZE / rng.uniform(*ZOOM)
    centre = IMAGE_SIZE / 2 + rng.uniform(-SHIFT_PIXELS, SHIFT_PIXELS, 2)
    # Pillow expects the inverse transform, from a pixel of the result to a point of the source.
    offset = len(source) / 2 - matrix @ centre
    strokes = Image.fromarray((source / 16).astype(np.float32)).transform(
        (IMAGE_SIZE, IMAGE_SIZE),
        Image.Transform.AFFINE,
        np.column_stack([matrix, offset]).ravel().tolist(),
        Image.Resampling.BICUBIC,
    )
    paper = rng.uniform(*PAPER)
    pixels = paper + (rng.uniform(*INK) - paper) * np.asarray(strokes, np.float64)
    if rng.random() < OCCLUSION_RATE:
        height, width = rng.integers(*OCCLUSION_PIXELS, size=2, endpoint=True)
        top, left = rng.integers(0, [IMAGE_SIZE - height, IMAGE_SIZE - width], endpoint=True)
        pixels[top : top + height, left : left + width] = rng.uniform(0, 1)
    pixels += rng.uniform(*IMAGE_NOISE) * rng.standard_normal(pixels.shape)
    return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)


def draw_clip(
    word: str, language: str, speakers: tuple[str, ...], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a noisy clip in which a random speaker says the word: samples [n], -1 to 1."""
    voice = Voice(
        language=LANGUAGES[language],
        speaker=speakers[rng.integers(len(speakers))],
        rate=int(rng.integers(*WORDS_PER_MINUTE, endpoint=True)),
        pitch=int(rng.integers(*PITCH, endpoint=True)),
        pitch_range=int(rng.integers(*PITCH_RANGE, endpoint=True)),
    )
    return mix(
        resample(synthesize(word, voice), SAMPLE_RATE),
        length=round(rng.uniform(*CLIP_SECONDS) * SAMPLE_RATE),
        snr=rng.uniform(*SNR_DECIBELS),
        level=rng.uniform(*LEVEL_DECIBELS),
        noise_exponent=NOISE_EXPONENTS[rng.integers(len(NOISE_EXPONENTS))],
        rng=rng,
    )


def _write_rows(folder: Path, seed: int, rows: Mapping[str, int]) -> list[Cells]:
    sources = split_sources(seed)

    def write_row(job: tuple[str, int]) -> Cells:
        split, row = job
        rng = np.random.default_rng([seed, SPLITS.index(split), row])
        return _write_row(folder, f"{split}-{row:06d}", split, sources[split], rng)

    jobs = [(split, row) for split in SPLITS for row in range(rows.get(split, 0))]
    pool = ThreadPoolExecutor(THREADS)
    try:
        return list(track(pool.map(write_row, jobs), "Writing digits", len(jobs)))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_row(
    folder: Path,
    name: str,
    split: str,
    sources: Mapping[int, Indices],
    rng: np.random.Generator,
) -> Cells:
    label = int(rng.integers(10))
    language = sorted(LANGUAGES)[rng.integers(len(LANGUAGES))]
    word = number_words(language)[label]
    present = rng.random(3) >= EMPTY_RATE
    present[rng.integers(3)] |= not present.any()
    audio, image, text = None, None, None
    if present[0]:
        audio = f"audio/{name}.wav"
        _save_clip(draw_clip(word, language, SPEAKERS[split], rng), folder / audio)
    if present[1]:
        image = f"image/{name}.png"
        pixels = load_sources()[0][rng.choice(sources[label])]
        Image.fromarray(draw_image(pixels, rng)).save(folder / image)
    if present[2]:
        text = misspell(word, rng)
    return dict(zip(COLUMNS, (name, split, str(label), audio, image, text), strict=True))


def _save_clip(clip: NDArray[np.float64], path: Path) -> None:
    # `wave` is faster than soundfile, which waits for the disk after each file.
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, len(clip), "NONE", "not compressed"))
        file.writeframes(np.round(32767 * clip).astype("<i2").tobytes())


def _check_rows(rows: Mapping[str, int]) -> None:
    if unknown := sorted(set(rows) - set(SPLITS)):
        raise UsageError(f"unknown split {', '.join(unknown)}; choose from {', '.join(SPLITS)}")
    if min(rows.values(), default=0) < 0:
        raise UsageError("the number of rows of each split must be 0 or more")
