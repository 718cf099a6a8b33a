"""The preprocessed samples of a split, decoded once into a memory-mapped Arrow file.

A split may be larger than memory, and a second run on the same data decodes nothing. Each version
of the data is a file of its own, and the `KEPT` last used of each split are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from dimml import __version__
from dimml.errors import InputError, ManifestError
from dimml.files import made_folder, new_file
from dimml.machine import available_cores
from dimml.modalities import Arrays, Kind
from dimml.progress import print_status, track
from dimml.samples import is_absent
from dimml.table import Row
from train.methods.base import UNLABELLED

BLOCK_ROWS = 256
KEPT = 3
FORMAT = 2
_PROBLEMS = b"problems"
_DIGEST = b"sha256"


class Split:
    """A split's samples, read from its Arrow file as they are asked for.

    Attributes:
        labels: int64 [N], `UNLABELLED` where a row has none.
        rows: int64 [N], each sample's place among the rows that the split was made from.
        present: bool [N, M].
        problems: one line per cell that could not be read and counts as absent.
        sha256: sha256 of the samples.
    """

    def __init__(self, path: Path, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._path = path
        self._blocks, self.problems, self.sha256 = _open(path)
        self.labels, self.rows = (
            np.concatenate([block.column(name).to_numpy() for block in self._blocks])
            for name in ("label", "row")
        )
        self.present = np.concatenate([_present(block, kinds) for block in self._blocks])
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Arrays]:
        """A sample's arrays by modality, read-only; what is absent is left out."""
        block = int(np.searchsorted(self._starts, index, side="right")) - 1
        table, row = self._blocks[block], index - int(self._starts[block])
        found = {}
        for name, kind in self._kinds.items():
            if table.column(f"{name}.{kind.input_names[0]}")[row].is_valid:
                found[name] = {key: _cell(table, f"{name}.{key}", row) for key in kind.input_names}
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that loads data maps the file itself.
        return Split, (self._path, self._kinds)


def cached_split(
    rows: Sequence[Row],
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    name: str,
    folder: Path,
    settings: str,
) -> Split:
    """The preprocessed samples of a split, from its file in `folder`, which is made if need be.

    An unreadable cell counts as absent, and is reported.

    Args:
        rows: of the split, see `read_split`.
        kinds: the modalities.
        labels: class names, in order; those of all rows are among them.
        name: of the split.
        folder: where the files are kept; it may be deleted at any time between runs.
        settings: whatever else the arrays depend on: the preprocessing and its assets.

    Raises:
        ManifestError: no row is readable.
    """
    path = folder / f"{name}-{_key(rows, labels, settings)}.arrow"
    if not path.exists():
        with made_folder(folder), new_file(path) as part:
            _write(part, rows, kinds, labels, name)
    path.touch()
    _remove_old(folder, name)
    split = Split(path, kinds)
    if split.problems:
        count, first = len(split.problems), split.problems[0]
        print_status(f"{name}: {count} unreadable cells count as absent; the first: {first}")
    return split


def _write(
    path: Path,
    rows: Sequence[Row],
    kinds: Mapping[str, Kind],
    labels: Sequence[str],
    name: str,
) -> None:
    index: dict[str | None, int] = {label: number for number, label in enumerate(labels)}
    index[None] = UNLABELLED
    schema = _schema(kinds)
    progress = iter(track(_decoded(rows, kinds), f"decoding {name}", len(rows)))
    readable, first = 0, ""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(rows), BLOCK_ROWS):
            block, problems = [], []
            for number, row in enumerate(rows[start : start + BLOCK_ROWS], start):
                item, errors = next(progress)
                problems += [f"{row.id}: {error}" for error in errors]
                if item:
                    block.append({"label": index[row.label], "row": number, **item})
            batch = pa.RecordBatch.from_pylist(block, schema)
            digest = hashlib.sha256(batch.serialize()).hexdigest()
            told = {_PROBLEMS: json.dumps(problems).encode(), _DIGEST: digest.encode()}
            writer.write_batch(batch, custom_metadata=told)
            readable += len(block)
            first = first or "".join(problems[:1])
        # Lets the progress reach its last line.
        next(progress, None)
    if not readable:
        raise ManifestError(f"no row of the {name} split can be read; the first: {first}")


def _remove_old(folder: Path, name: str) -> None:
    # Where another process does the same, a file may be gone.
    with suppress(FileNotFoundError):
        files = sorted(folder.glob(f"{name}-*.arrow"), key=lambda file: file.stat().st_mtime_ns)
        for file in files[:-KEPT]:
            file.unlink()


def _decoded(
    rows: Sequence[Row], kinds: Mapping[str, Kind]
) -> Iterator[tuple[dict[str, Any], list[InputError]]]:
    # The decoders and numpy release the interpreter, so threads serve.
    with ThreadPoolExecutor(available_cores()) as pool:
        for start in range(0, len(rows), BLOCK_ROWS):
            yield from pool.map(lambda row: _decode(row, kinds), rows[start : start + BLOCK_ROWS])


def _decode(row: Row, kinds: Mapping[str, Kind]) -> tuple[dict[str, Any], list[InputError]]:
    item: dict[str, Any] = {}
    errors = []
    for name, kind in kinds.items():
        if is_absent(value := row.sample[name]):
            continue
        try:
            arrays = kind.preprocess(kind.decode(value))
        except InputError as error:
            errors.append(error)
            continue
        for key, array in arrays.items():
            item[f"{name}.{key}"] = array.ravel()
            item[f"{name}.{key}.shape"] = array.shape
    return item, errors


def _schema(kinds: Mapping[str, Kind]) -> pa.Schema:
    fields = [pa.field("label", pa.int64()), pa.field("row", pa.int64())]
    for name, kind in kinds.items():
        for key, array in kind.preprocess(kind.decode(kind.example())).items():
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
    found = [
        block.column(f"{name}.{kind.input_names[0]}").is_valid() for name, kind in kinds.items()
    ]
    return np.stack([column.to_numpy(zero_copy_only=False) for column in found], axis=1)


def _cell(block: pa.RecordBatch, column: str, row: int) -> np.ndarray:
    values = block.column(column)[row].values.to_numpy()
    array: np.ndarray = values.reshape(block.column(f"{column}.shape")[row].as_py())
    return array


def _key(rows: Sequence[Row], labels: Sequence[str], settings: str) -> str:
    """Changes with anything the arrays depend on; a file stands for its size and its time."""
    digest = hashlib.sha256(json.dumps([__version__, FORMAT, settings, *labels]).encode())
    for row in rows:
        digest.update(repr((row.id, row.label)).encode())
        for name, value in row.sample.items():
            digest.update(name.encode())
            for part in value if isinstance(value, list) else [value]:
                digest.update(_identity(part))
    return digest.hexdigest()[:16]


def _identity(value: Any) -> bytes:
    if isinstance(value, bytes):
        return hashlib.sha256(value).digest()
    if isinstance(value, Path) and value.is_file():
        status = value.stat()
        return repr((str(value), status.st_size, status.st_mtime_ns)).encode()
    return repr(value).encode()
