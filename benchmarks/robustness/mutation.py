"""Damage good files and forms at random, for fuzzing.

`tests/serving/http/test_fuzz.py` and `benchmarks/robustness/fuzz.py` share this module. A seed
determines every result.
"""

from __future__ import annotations

import io
import os
import random
import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import PIL.Image
import soundfile

from benchmarks.http.load import form

SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
"""Factor on the number of examples that continuous integration tries."""

RATE = 16_000
TEXTS = ("seven", "sieben 7️⃣ 🎲", "שבע", "a\u0301\0b", "zero one two " * 40)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
Mutation = Callable[[random.Random, bytearray], None]


def examples(count: int) -> int:
    """Return how many examples of a property to try: `count` in continuous integration."""
    return max(1, round(SCALE * count))


@cache
def images() -> dict[str, bytes]:
    """Return a small picture in each format, and animations."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = PIL.Image.fromarray(noise)
    formats = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    seeds = {name: _image(picture, name) for name in formats}
    seeds["progressive JPEG"] = _image(picture, "JPEG", progressive=True)
    seeds["CMYK JPEG"] = _image(picture.convert("CMYK"), "JPEG")
    seeds["palette PNG"] = _image(picture.convert("P"), "PNG", transparency=0)
    seeds["plain PGM"] = b"P2 4 4 255\n" + b"17 " * 16
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        seeds[f"TIFF {compression}"] = _image(picture, "TIFF", compression=compression)
    frames = [picture.rotate(90 * turn) for turn in range(3)]
    for name in ("PNG", "GIF", "WEBP", "TIFF"):
        seeds[f"animated {name}"] = _image(picture, name, save_all=True, append_images=frames)
    return seeds


@cache
def recordings() -> dict[str, bytes]:
    """Return a short recording in each format."""
    time = np.arange(RATE // 4) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 440 * time)
    kinds = {
        "WAV": ("WAV", "PCM_16"),
        "float WAV": ("WAV", "FLOAT"),
        "ADPCM WAV": ("WAV", "MS_ADPCM"),
        "FLAC": ("FLAC", None),
        "OGG Vorbis": ("OGG", "VORBIS"),
        "OGG Opus": ("OGG", "OPUS"),
        "MP3": ("MP3", None),
        "AIFF": ("AIFF", None),
        "CAF": ("CAF", "ALAC_16"),
    }
    seeds = {name: _recording(samples, *kind) for name, kind in kinds.items()}
    seeds["stereo WAV"] = _recording(np.stack([samples, samples], axis=1), "WAV", "PCM_16")
    return seeds


def mutate(data: bytes, seed: int, others: tuple[bytes, ...] = ()) -> bytes:
    """Return the data after one to four random mutations.

    Args:
        data: Good data.
        seed: Determines the mutations.
        others: Files from which pieces may be spliced in.
    """
    generator = random.Random(seed)
    damaged = bytearray(data)
    mutations: list[Mutation] = [_flip, _cut, _repeat, _remove, _extreme, _extreme, _blank]
    for _ in range(generator.randint(1, 4)):
        if others and generator.random() < 0.2:
            _splice(generator, damaged, generator.choice(others))
        else:
            generator.choice(mutations)(generator, damaged)
    return bytes(damaged)


def upload(seed: int, audio: str = "audio", image: str = "image", text: str = "text") -> bytes:
    """Return a form; in three of four cases its files or its own bytes are damaged."""
    generator = random.Random(seed)
    pictures, sounds = tuple(images().values()), tuple(recordings().values())
    content = {
        image: generator.choice(pictures),
        audio: generator.choice(sounds),
        text: generator.choice(TEXTS).encode(),
    }
    kept = generator.sample(list(content), generator.randint(1, len(content)))
    damage = generator.choice(("none", "files", "files", "form"))
    if damage == "files":
        others = (*pictures, *sounds)
        content = {
            name: mutate(held, generator.getrandbits(32), others) for name, held in content.items()
        }
    parts = [(name, None if name == text else f"{name}.bin", content[name]) for name in kept]
    body = form(parts)
    return mutate(body, generator.getrandbits(32)) if damage == "form" else body


def _image(picture: PIL.Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _recording(samples: np.ndarray, form: str, sub: str | None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form, subtype=sub)
    return file.getvalue()


def _flip(generator: random.Random, data: bytearray) -> None:
    for _ in range(generator.randint(1, 16)):
        if data:
            data[_position(generator, data)] ^= 1 << generator.randrange(8)


def _cut(generator: random.Random, data: bytearray) -> None:
    del data[_position(generator, data) :]


def _repeat(generator: random.Random, data: bytearray) -> None:
    piece = _piece(generator, data)
    position = _position(generator, data)
    data[position:position] = piece * generator.choice((1, 2, 50))


def _remove(generator: random.Random, data: bytearray) -> None:
    start = _position(generator, data)
    del data[start : start + generator.randint(1, 64)]


def _blank(generator: random.Random, data: bytearray) -> None:
    start = _position(generator, data)
    end = min(len(data), start + generator.randint(1, 64))
    data[start:end] = bytes([generator.choice((0, 255))]) * (end - start)


def _extreme(generator: random.Random, data: bytearray) -> None:
    """Overwrite a number by one at the edge of its range."""
    layout = generator.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(layout)
    if len(data) >= size:
        start = min(_position(generator, data), len(data) - size)
        value = generator.choice(EXTREMES) & (256**size - 1)
        struct.pack_into(layout, data, start, value)


def _splice(generator: random.Random, data: bytearray, other: bytes) -> None:
    position = _position(generator, data)
    data[position:position] = _piece(generator, other)


def _position(generator: random.Random, data: bytes | bytearray) -> int:
    """Return a random position; every second one is in the head, where formats keep sizes."""
    end = len(data) if generator.random() < 0.5 else min(len(data), 128)
    return generator.randrange(end) if end else 0


def _piece(generator: random.Random, data: bytes | bytearray) -> bytes:
    start = _position(generator, data)
    return bytes(data[start : start + generator.randint(1, 512)])
