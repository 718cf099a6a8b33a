"""Good requests, and bad ones that real clients send, for a long mixed run."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Sequence

from benchmarks.http.load import CONTENT_TYPE
from benchmarks.robustness.mutation import images

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
    png = images()["PNG"]
    image = base64.b64encode(generator.choice([png, _declare_size(png, 60_000)])).decode()
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


def _declare_size(png: bytes, side: int) -> bytes:
    """Return a PNG whose header declares a square of another size than its pixels have."""
    header = png[12:16] + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
