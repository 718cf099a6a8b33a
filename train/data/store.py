"""The store of computed features: vectors on disk, found by what they were computed from."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from dimml.files import new_file
from dimml.progress import print_status

KEPT_STORES = 3
FLUSH_VECTORS = 512
FLUSH_SECONDS = 30.0
"""A store writes a file after this many vectors or seconds; a stopped run loses no more."""


class FeatureStore:
    """Vectors on disk, found by the digest of what they were computed from.

    The vectors lie in memory-mapped Arrow files, so memory holds only the digests. Processes may
    share a folder: each writes files of its own. A damaged file is removed.

    Args:
        folder: The folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: dict[bytes, tuple[int, int]] = {}
        self._files: list[np.ndarray] = []
        self._pending: dict[bytes, np.ndarray] = {}
        self._flushed = time.monotonic()
        for path in sorted(folder.glob("*.arrow")):
            try:
                self._read(path)
            except FileNotFoundError:
                # Another process removed the store.
                continue
            # Arrow raises many types of error for a damaged file.
            except (pa.ArrowException, OSError, ValueError, LookupError, AttributeError):
                print_status(f"{path} is damaged; removed, its features are computed again")
                with suppress(OSError):
                    path.unlink()

    def __contains__(self, key: bytes) -> bool:
        return key in self._index or key in self._pending

    def __getitem__(self, key: bytes) -> np.ndarray:
        """Return the vector [width] of a digest."""
        if key in self._pending:
            return self._pending[key]
        file, row = self._index[key]
        vector: np.ndarray = self._files[file][row]
        return vector

    def add(self, key: bytes, vector: np.ndarray) -> None:
        """Keep a vector, and write a file if enough vectors or seconds have passed."""
        self._pending[key] = vector
        waited = time.monotonic() - self._flushed
        if len(self._pending) >= FLUSH_VECTORS or waited > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the vectors that are not on disk yet."""
        self._flushed = time.monotonic()
        if not self._pending:
            return
        keys, vectors = list(self._pending), np.stack(list(self._pending.values()))
        table = pa.table(
            {
                "key": pa.array(keys, pa.binary(len(keys[0]))),
                "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
            }
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{uuid.uuid4().hex}.arrow"
        with (
            new_file(path) as part,
            pa.OSFile(str(part), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
        self._read(path)
        self._pending.clear()

    def _read(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        vectors = table["vector"].combine_chunks()
        if isinstance(vectors, pa.ChunkedArray):
            vectors = vectors.chunk(0)
        width = vectors.type.list_size
        number = len(self._files)
        self._files.append(vectors.flatten().to_numpy().reshape(-1, width))
        for row, key in enumerate(table["key"].to_pylist()):
            self._index[key] = number, row


def open_store(cache: Path, model: str, identity: str) -> FeatureStore:
    """Open the store of a model and its preprocessing.

    Args:
        cache: The folder of all stores.
        model: Name of the model.
        identity: A digest, in hexadecimal, of everything that determines the features besides the
            values.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", model)[-60:]
    store = FeatureStore(cache / f"features-{name}-{identity}")
    with suppress(FileNotFoundError):
        os.utime(store.folder)
    return store


def remove_old_stores(cache: Path, used: Collection[FeatureStore]) -> None:
    """Remove stores of the models in use, but the `KEPT_STORES` of each that were used last.

    Args:
        cache: The folder of all stores.
        used: The stores in use, none of which is removed.
    """
    folders = {store.folder for store in used}
    for prefix in {folder.name.rpartition("-")[0] for folder in folders}:
        # Another process may remove the same store at the same time.
        with suppress(FileNotFoundError):
            others = [
                path
                for path in cache.glob(f"{prefix}-*")
                if path.name.rpartition("-")[0] == prefix and path not in folders
            ]
            others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
            kept = sum(folder.name.rpartition("-")[0] == prefix for folder in folders)
            for old in others[max(0, KEPT_STORES - kept) :]:
                shutil.rmtree(old, ignore_errors=True)
