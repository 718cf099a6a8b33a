"""Recordings and images as the bytes of a file."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import PIL.Image
import soundfile


def wav(seconds: float = 1.0) -> bytes:
    time_axis = np.arange(int(16_000 * seconds)) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * time_axis), 16_000, format="WAV")
    return file.getvalue()


def picture(kind: str = "PNG", size: int = 40) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def wav_claiming(size: int) -> bytes:
    content = bytearray(wav())
    content[40:44] = struct.pack("<I", size)
    return bytes(content)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


WAV, PNG, JPEG = wav(), picture("PNG"), picture("JPEG")
