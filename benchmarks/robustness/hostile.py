"""Requests of every sort, for the soak: good ones, and bad ones that clients really send."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Sequence

from benchmarks.http.load import CONTENT_TYPE

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
Request = tuple[str, dict[str, str], bytes]
"""Path, headers and body."""


def requests(samples: Sequence[bytes], chosen: random.Random) -> list[Request]:
    """A few of each sort, made from multipart bodies that are good."""
    good = chosen.choice(samples)
    cut = good[: chosen.randrange(1, len(good))]
    flipped = bytearray(good)
    for _ in range(20):
        flipped[chosen.randrange(len(flipped))] = chosen.randrange(256)
    image = base64.b64encode(_png(*chosen.choice([(8, 8), (60_000, 60_000)]))).decode()
    multipart = {"Content-Type": CONTENT_TYPE}
    return [
        ("/predict", multipart, good),
        ("/predict?on_unreadable=absent", multipart, bytes(flipped)),
        ("/predict", multipart, bytes(flipped)),
        ("/predict", multipart, cut),
        ("/predict", {"Content-Type": FORM}, "text=siebén 🙂".encode()),
        ("/predict", {"Content-Type": FORM}, b"text=" + b"x" * 30_000),
        ("/predict", {"Content-Type": FORM}, b"song=x"),
        ("/predict", {"Content-Type": JSON}, f'{{"image": "{image}"}}'.encode()),
        ("/predict", {"Content-Type": JSON}, b'{"text": "' + b"[" * 5_000),
        ("/predict", {"Content-Type": "text/csv"}, b"a,b"),
        ("/predict", multipart, b"x" * chosen.choice([100, 1_000_000, 25_000_000])),
        ("/nowhere" + str(chosen.random()), {}, b""),
    ]


def _png(width: int, height: int) -> bytes:
    """A grey PNG whose header says so; only a small one holds its pixels."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = (b"\0" + b"\x80" * width) * height if width < 100 else b"\0"
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND")


def _chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum
