"""Encoded recordings and images, and helpers that damage them."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import PIL.Image
import soundfile

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WAV_DATA_SIZE_OFFSET = 40


def encode_tone() -> bytes:
    """Return a WAV of one second at 440 Hz."""
    seconds = np.arange(16_000) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * seconds), 16_000, format="WAV")
    return file.getvalue()


def encode_noise(image_format: str) -> bytes:
    """Return an RGB image of 40 x 40 random pixels, the same in each call."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def png_chunk(name: bytes, content: bytes = b"") -> bytes:
    """Return a chunk of a PNG: its length, name, content and checksum."""
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of_declared_size(width: int, height: int) -> bytes:
    """Return a PNG whose header declares a size, with almost no pixel data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(99))
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels)


def wav_of_declared_size(size: int) -> bytes:
    """Return a WAV of one second whose header declares a number of bytes of samples."""
    return patch(WAV, WAV_DATA_SIZE_OFFSET, "<I", size)


def patch(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    """Replace the bytes at an offset by values packed as `struct.pack` does."""
    patched = bytearray(data)
    struct.pack_into(layout, patched, offset, *values)
    return bytes(patched)


def to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


WAV, PNG, JPEG = encode_tone(), encode_noise("PNG"), encode_noise("JPEG")
