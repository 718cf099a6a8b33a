"""Good requests, and bad ones that real clients send, for a long mixed run."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Sequence

from benchmarks.http.load import CONTENT_TYPE

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
Request = tuple[str, dict[str, str], bytes]
"""Path, headers and body of a request."""


def mixed_requests(samples: Sequence[bytes], generator: random.Random) -> list[Request]:
    """Return one request of each sort, made from good multipart bodies."""
    good = generator.choice(samples)
    truncated = good[: generator.randrange(1, len(good))]
    flipped = bytearray(good)
    for _ in range(20):
        flipped[generator.randrange(len(flipped))] = generator.randrange(256)
    image = base64.b64encode(_png(*generator.choice([(8, 8), (60_000, 60_000)]))).decode()
    multipart = {"Content-Type": CONTENT_TYPE}
    return [
        ("/predict", multipart, good),
        ("/predict?on_unreadable=absent", multipart, bytes(flipped)),
        ("/predict", multipart, bytes(flipped)),
        ("/predict", multipart, truncated),
        ("/predict", {"Content-Type": FORM}, "text=siebén 🙂".encode()),
        ("/predict", {"Content-Type": FORM}, b"text=" + b"x" * 30_000),
        ("/predict", {"Content-Type": FORM}, b"song=x"),
        ("/predict", {"Content-Type": JSON}, f'{{"image": "{image}"}}'.encode()),
        ("/predict", {"Content-Type": JSON}, b'{"text": "' + b"[" * 5_000),
        ("/predict", {"Content-Type": "text/csv"}, b"a,b"),
        ("/predict", multipart, b"x" * generator.choice([100, 1_000_000, 25_000_000])),
        ("/nowhere" + str(generator.random()), {}, b""),
    ]


def _png(width: int, height: int) -> bytes:
    """Return a grey PNG; one that is 100 pixels wide or more holds no pixels, as a bomb does."""
    header = _png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = (b"\0" + b"\x80" * width) * height if width < 100 else b"\0"
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + _png_chunk(b"IDAT", zlib.compress(rows))
        + _png_chunk(b"IEND")
    )


def _png_chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum
