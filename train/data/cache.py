"""The preprocessed samples of a split, decoded once into a memory-mapped Arrow file.

A split may be larger than memory, and a second run on the same data decodes nothing. Each version
of the data has its own file. Of each split, the `KEPT_VERSIONS` files last used are kept. Instead
of its samples, a modality with a frozen encoder has its features in the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from dimml import __version__
from dimml.errors import AbsentError, InputError, InterruptedRunError, shorten
from dimml.files import made_folder, new_file
from dimml.modalities import Arrays, Kind, Text
from dimml.progress import print_status, track
from dimml.samples import is_absent
from dimml.table import Row
from train.data.digests import rows_digest
from train.data.features import FrozenEncoder, PendingFeatures, stored_kinds
from train.data.splits import no_readable_row, report_unreadable
from train.methods.base import UNLABELLED
from train.threads import in_threads

BLOCK_ROWS = 64
TEXT_BLOCK_ROWS = 256
"""Rows that are decoded, encoded and written together. Texts are small, and in a larger block more
of them have about the same length and share a batch."""
KEPT_VERSIONS = 3
FORMAT = 4
_PROBLEMS = b"problems"
_DIGEST = b"sha256"

_Item = tuple[dict[str, Arrays | PendingFeatures], list[InputError]]
"""What could be read of a row by modality, and the errors of the other cells."""


class Split:
    """The samples of a split, read from its Arrow file on demand.

    Attributes:
        labels: int64 [N], `UNLABELLED` for a row without a label.
        rows: int64 [N], the position of each sample among the rows of the split.
        modalities: Names in slot order.
        present: bool [N, M].
        problems: One line per cell that cannot be read and counts as absent.
        sha256: The sha256 of the samples, or of what their features were computed from.
    """

    def __init__(self, path: Path, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._path = path
        self._blocks, self.problems, self.sha256 = _open(path)
        self.labels, self.rows = (
            np.concatenate([block.column(name).to_numpy() for block in self._blocks])
            for name in ("label", "row")
        )
        self.modalities = tuple(kinds)
        self.present = np.concatenate([_present(block, kinds) for block in self._blocks])
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Arrays]:
        """Return the arrays of a sample by modality, which may be read-only."""
        block = int(np.searchsorted(self._starts, index, side="right")) - 1
        table, row = self._blocks[block], index - int(self._starts[block])
        sample = {}
        for name, kind in self._kinds.items():
            if table.column(f"{name}.{kind.input_names[0]}")[row].is_valid:
                cells = {key: _cell(table, f"{name}.{key}", row) for key in kind.input_names}
                sample[name] = kind.expand(cells)
        return sample

    def __reduce__(self) -> tuple[Any, ...]:
        # Each worker process maps the file itself.
        return Split, (self._path, self._kinds)


def cached_split(
    rows: Sequence[Row],
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    name: str,
    folder: Path,
    settings: str,
    frozen: Mapping[str, FrozenEncoder] | None = None,
) -> Split:
    """Return the preprocessed samples of a split, and decode them unless their file exists.

    An unreadable cell counts as absent, and is reported.

    Args:
        rows: The rows of the split, see `read_split`.
        kinds: Modality to kind.
        labels: Class names in order, which include the label of every row.
        name: The name of the split.
        folder: The folder of the files. It may be deleted between runs.
        settings: Everything else that determines the arrays: the preprocessing and its assets, and
            the frozen encoders.
        frozen: Modality to frozen encoder, for the modalities of which the split has features.

    Raises:
        ManifestError: If no row is readable.
    """
    key = rows_digest(rows, json.dumps([__version__, FORMAT, settings, *labels]))
    path = folder / f"{name}-{key}.arrow"
    frozen = frozen or {}
    if not path.exists():
        with made_folder(folder), new_file(path) as part:
            try:
                _write(part, rows, kinds, labels, name, frozen)
            except KeyboardInterrupt:
                if not frozen:
                    raise
                raise InterruptedRunError(
                    "stopped; run the same command again to continue (the features that were "
                    "encoded are kept)"
                ) from None
            finally:
                for encoder in frozen.values():
                    encoder.store.flush()
    path.touch()
    _remove_old(folder, name)
    try:
        split = Split(path, stored_kinds(kinds, frozen))
    except (pa.ArrowInvalid, KeyError):
        print_status(f"{path} is damaged; it is made again")
        path.unlink()
        return cached_split(rows, kinds, labels, name, folder, settings, frozen)
    report_unreadable(name, split.problems)
    return split


def _write(
    path: Path,
    rows: Sequence[Row],
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    name: str,
    frozen: Mapping[str, FrozenEncoder],
) -> None:
    index: dict[str | None, int] = {label: number for number, label in enumerate(labels)}
    index[None] = UNLABELLED
    schema = _schema(stored_kinds(kinds, frozen))
    task = f"{'encoding' if frozen else 'decoding'} {name}"
    only_text = all(isinstance(kind, Text) for kind in kinds.values())
    size = TEXT_BLOCK_ROWS if only_text else BLOCK_ROWS
    # One block is decoded ahead, while the main thread encodes.
    decoded = in_threads(partial(_decode, kinds=kinds, frozen=frozen), rows, size)
    progress = iter(track(decoded, task, len(rows)))
    readable, first = 0, ""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(rows), size):
            block, problems = [], []
            rows_of_block = rows[start : start + size]
            items = [next(progress) for _ in rows_of_block]
            source = _encode([item for item, _ in items], frozen)
            for number, (row, (item, errors)) in enumerate(
                zip(rows_of_block, items, strict=True), start
            ):
                problems += [f"{shorten(row.id)}: {error}" for error in errors]
                if item:
                    block.append({"label": index[row.label], "row": number, **_columns(item)})
            batch = pa.RecordBatch.from_pylist(block, schema)
            # Features differ in their last bits from machine to machine, unlike their source.
            others = batch.drop_columns([f"{name}.features" for name in frozen])
            digest = hashlib.sha256(others.serialize().to_pybytes() + source).hexdigest()
            metadata = {_PROBLEMS: json.dumps(problems).encode(), _DIGEST: digest.encode()}
            writer.write_batch(batch, custom_metadata=metadata)
            readable += len(block)
            first = first or "".join(problems[:1])
        # Exhausts the progress, so that it prints its last line.
        next(progress, None)
    if not readable:
        raise no_readable_row(name, first)


def _encode(
    items: Sequence[dict[str, Arrays | PendingFeatures]], frozen: Mapping[str, FrozenEncoder]
) -> bytes:
    """Replace the pending features of rows by arrays; return what these were computed from."""
    source = b""
    for name, encoder in frozen.items():
        present = [item for item in items if name in item]
        pending = [value for item in present if isinstance(value := item[name], PendingFeatures)]
        source += repr((name, encoder.identity, [value.keys for value in pending])).encode()
        for item, features in zip(present, encoder.encode(pending), strict=True):
            item[name] = {"features": features}
    return source


def _columns(item: Mapping[str, Any]) -> dict[str, Any]:
    columns = {}
    for name, arrays in item.items():
        for key, array in arrays.items():
            columns[f"{name}.{key}"] = array.ravel()
            columns[f"{name}.{key}.shape"] = array.shape
    return columns


def _remove_old(folder: Path, name: str) -> None:
    # Another process may remove the same file at the same time.
    with suppress(FileNotFoundError):
        files = sorted(folder.glob(f"{name}-*.arrow"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-KEPT_VERSIONS]:
            file.unlink()


def _decode(row: Row, kinds: Mapping[str, Kind], frozen: Mapping[str, FrozenEncoder]) -> _Item:
    item: dict[str, Arrays | PendingFeatures] = {}
    errors = []
    for name, kind in kinds.items():
        if is_absent(value := row.sample[name]):
            continue
        try:
            if name in frozen:
                item[name] = frozen[name].decode(value)
            else:
                item[name] = kind.compact(kind.decode(value))
        except AbsentError:
            continue
        except InputError as error:
            errors.append(error)
    return item, errors


def _schema(kinds: Mapping[str, Kind]) -> pa.Schema:
    fields = [pa.field("label", pa.int64()), pa.field("row", pa.int64())]
    for name, kind in kinds.items():
        for key, array in kind.compact(kind.decode(kind.example())).items():
            fields.append(
                pa.field(f"{name}.{key}", pa.large_list(pa.from_numpy_dtype(array.dtype)))
            )
            fields.append(pa.field(f"{name}.{key}.shape", pa.list_(pa.int64())))
    return pa.schema(fields)


def _open(path: Path) -> tuple[list[pa.RecordBatch], list[str], str]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    blocks, problems, digest = [], [], hashlib.sha256()
    for number in range(reader.num_record_batches):
        block, metadata = reader.get_batch_with_custom_metadata(number)
        blocks.append(block)
        problems += json.loads(metadata[_PROBLEMS])
        digest.update(metadata[_DIGEST])
    return blocks, problems, digest.hexdigest()


def _present(block: pa.RecordBatch, kinds: Mapping[str, Kind]) -> np.ndarray:
    valid = [block.column(f"{n}.{kind.input_names[0]}").is_valid() for n, kind in kinds.items()]
    return np.stack([column.to_numpy(zero_copy_only=False) for column in valid], axis=1)


def _cell(block: pa.RecordBatch, column: str, row: int) -> np.ndarray:
    values = block.column(column)[row].values.to_numpy()
    array: np.ndarray = values.reshape(block.column(f"{column}.shape")[row].as_py())
    return array
