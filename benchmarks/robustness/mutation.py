"""Files and forms that were good, damaged at random: what fuzzing sends.

Shared by `tests/serving/http/test_fuzz.py` and `benchmarks/robustness/fuzz.py`. A seed
decides everything.
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

from benchmarks.http.load import BOUNDARY

SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
"""How many times as many examples as continuous integration takes."""

RATE = 16_000
TEXTS = ("seven", "sieben 7️⃣ 🎲", "שבע", "a\u0301\0b", "zero one two " * 40)
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
Mutation = Callable[[random.Random, bytearray], None]


def examples(count: int) -> int:
    """How many examples of a property to try: `count` in continuous integration."""
    return max(1, round(SCALE * count))


@cache
def images() -> dict[str, bytes]:
    """A small picture in each format, and animations."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = PIL.Image.fromarray(noise)
    forms = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
    seeds = {form: _image(picture, form) for form in forms}
    seeds["progressive JPEG"] = _image(picture, "JPEG", progressive=True)
    seeds["CMYK JPEG"] = _image(picture.convert("CMYK"), "JPEG")
    seeds["palette PNG"] = _image(picture.convert("P"), "PNG", transparency=0)
    seeds["plain PGM"] = b"P2 4 4 255\n" + b"17 " * 16
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        seeds[f"TIFF {compression}"] = _image(picture, "TIFF", compression=compression)
    frames = [picture.rotate(90 * turn) for turn in range(3)]
    for form in ("PNG", "GIF", "WEBP", "TIFF"):
        seeds[f"animated {form}"] = _image(picture, form, save_all=True, append_images=frames)
    return seeds


@cache
def recordings() -> dict[str, bytes]:
    """A short recording in each format."""
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
    """The data after one to four random mutations.

    Args:
        data: what was good.
        seed: decides all.
        others: files that pieces may be taken from.
    """
    chosen = random.Random(seed)
    damaged = bytearray(data)
    mutations: list[Mutation] = [_flip, _cut, _repeat, _remove, _extreme, _extreme, _blank]
    for _ in range(chosen.randint(1, 4)):
        if others and chosen.random() < 0.2:
            _splice(chosen, damaged, chosen.choice(others))
        else:
            chosen.choice(mutations)(chosen, damaged)
    return bytes(damaged)


def form(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    """A well-formed body of parts given as field name, file name and content."""
    pieces = []
    for name, filename, content in parts:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'Content-Disposition: form-data; name="{name}"{file}'
        pieces.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + b"\r\n")
    return b"".join(pieces) + f"--{BOUNDARY}--\r\n".encode()


def upload(seed: int, audio: str = "audio", image: str = "image", text: str = "text") -> bytes:
    """A form whose files, or whose own bytes, are damaged; every fourth stays good."""
    chosen = random.Random(seed)
    pictures, sounds = tuple(images().values()), tuple(recordings().values())
    content = {
        image: chosen.choice(pictures),
        audio: chosen.choice(sounds),
        text: chosen.choice(TEXTS).encode(),
    }
    kept = chosen.sample(list(content), chosen.randint(1, len(content)))
    damage = chosen.choice(("none", "files", "files", "form"))
    if damage == "files":
        others = (*pictures, *sounds)
        content = {
            name: mutate(held, chosen.getrandbits(32), others) for name, held in content.items()
        }
    parts = [(name, None if name == text else f"{name}.bin", content[name]) for name in kept]
    body = form(parts)
    return mutate(body, chosen.getrandbits(32)) if damage == "form" else body


def _image(picture: PIL.Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _recording(samples: np.ndarray, form: str, sub: str | None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form, subtype=sub)
    return file.getvalue()


def _flip(chosen: random.Random, data: bytearray) -> None:
    for _ in range(chosen.randint(1, 16)):
        if data:
            data[_position(chosen, data)] ^= 1 << chosen.randrange(8)


def _cut(chosen: random.Random, data: bytearray) -> None:
    del data[_position(chosen, data) :]


def _repeat(chosen: random.Random, data: bytearray) -> None:
    piece = _piece(chosen, data)
    position = _position(chosen, data)
    data[position:position] = piece * chosen.choice((1, 2, 50))


def _remove(chosen: random.Random, data: bytearray) -> None:
    start = _position(chosen, data)
    del data[start : start + chosen.randint(1, 64)]


def _blank(chosen: random.Random, data: bytearray) -> None:
    start = _position(chosen, data)
    end = min(len(data), start + chosen.randint(1, 64))
    data[start:end] = bytes([chosen.choice((0, 255))]) * (end - start)


def _extreme(chosen: random.Random, data: bytearray) -> None:
    """Overwrites a number by one at the edge of its range."""
    layout = chosen.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(layout)
    if len(data) >= size:
        start = min(_position(chosen, data), len(data) - size)
        value = chosen.choice(EXTREMES) & (256**size - 1)
        struct.pack_into(layout, data, start, value)


def _splice(chosen: random.Random, data: bytearray, other: bytes) -> None:
    position = _position(chosen, data)
    data[position:position] = _piece(chosen, other)


def _position(chosen: random.Random, data: bytes | bytearray) -> int:
    """Somewhere in the data: half the time in its head, where formats keep their sizes."""
    end = len(data) if chosen.random() < 0.5 else min(len(data), 128)
    return chosen.randrange(end) if end else 0


def _piece(chosen: random.Random, data: bytes | bytearray) -> bytes:
    start = _position(chosen, data)
    return bytes(data[start : start + chosen.randint(1, 512)])
