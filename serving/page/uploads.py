"""The files that people upload on the page: deleted after an hour, also incomplete ones."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection
from pathlib import Path

FILE_SECONDS = 3600.0
"""Time after which an uploaded file is deleted."""


def find_files(folder: Path, names: Collection[str]) -> frozenset[Path]:
    """Return the files in a folder that have one of the names."""
    return frozenset(path for path in folder.rglob("*") if path.name in names)


def delete_old_files(folder: Path, kept: Collection[Path], seconds: float) -> None:
    """Delete the files that are older than some seconds, and folders that are empty then."""
    oldest = time.time() - seconds
    for path in list(folder.rglob("*")):
        # Another worker may delete the same files.
        with contextlib.suppress(OSError):
            if path.is_file() and path not in kept and path.stat().st_mtime < oldest:
                path.unlink()
                path.parent.rmdir()


async def keep_deleting(folder: Path, kept: Collection[Path]) -> None:
    """Delete old files from time to time, until cancelled."""
    while True:
        await asyncio.sleep(FILE_SECONDS / 6)
        await asyncio.to_thread(delete_old_files, folder, kept, FILE_SECONDS)
