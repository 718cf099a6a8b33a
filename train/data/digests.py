"""Digests that identify rows, without reading the files that they name, and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dimml.modalities import Kind
from dimml.samples import AudioArray
from dimml.table import Row


def rows_digest(rows: Sequence[Row], settings: str) -> str:
    """Return a digest of rows and settings; a file counts by its size and its time."""
    digest = hashlib.sha256(settings.encode())
    for row in rows:
        digest.update(repr((row.id, row.label)).encode())
        for name, value in row.sample.items():
            digest.update(name.encode())
            digest.update(_identity(value))
    return digest.hexdigest()[:16]


def content_digest(kind: Kind, value: Any) -> bytes:
    """Return a digest of the content of a value, wherever it is stored.

    Raises:
        InputError: If the value is a file that cannot be read.
    """
    if isinstance(value, list | tuple):
        return hashlib.sha256(b"".join(content_digest(kind, part) for part in value)).digest()
    if isinstance(value, str):
        return hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    if isinstance(value, AudioArray):
        return hashlib.sha256(value.to_bytes()).digest()
    return hashlib.sha256(kind.read_bytes(value)).digest()


def _identity(value: Any) -> bytes:
    if isinstance(value, list):
        return b"".join(map(_identity, value))
    if isinstance(value, AudioArray):
        value = value.to_bytes()
    if isinstance(value, bytes):
        return hashlib.sha256(value).digest()
    # The file may be missing. A cell that is no path can be too long for the file system.
    with suppress(OSError, ValueError):
        if isinstance(value, Path):
            status = value.stat()
            return repr((str(value), status.st_size, status.st_mtime_ns)).encode()
    return repr(value).encode()
