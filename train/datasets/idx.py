"""The idx format of MNIST: a header and an array of bytes, compressed by gzip."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dimml.errors import UsageError

# The header's first bytes: two zeros, the type of the elements, and the number of dimensions.
_UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of a compressed idx file.

    Args:
        path: The file.
        dimensions: Number of dimensions that the array must have.

    Raises:
        UsageError: If the file is not gzip, is truncated, holds another type or other dimensions,
            or has fewer or more elements than its header declares.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * dimensions)
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, str(error)) from error
    if header[:4] != magic:
        start = header[:4].hex() or "nothing"
        raise _damaged(path, f"it starts with {start} instead of {magic.hex()}")
    if len(header) < 4 + 4 * dimensions:
        raise _damaged(path, "it ends within its header")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if len(content) != math.prod(shape):
        declared = " x ".join(map(str, shape))
        raise _damaged(path, f"its header declares {declared} bytes, but it holds {len(content)}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(
        f"{path} is damaged or not a compressed idx file: {reason}; download it again"
    )
