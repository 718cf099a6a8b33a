"""Score the rows of a window: the work that every process of a job does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dimml.errors import DimmlError, InputError
from dimml.names import SCORE_SUFFIXES
from dimml.outputs import FusedBatch, PreparedSample
from dimml.predictor import Predictor
from dimml.runtime.providers import GpuOptions
from serving.offline.inputs import ScoreRow
from serving.offline.workspace import Job

_LAST_COLUMNS = ("error_code", "error_field", "error_message", "bundle")


class Scorer:
    """A predictor with the settings of a job.

    Args:
        bundle: Folder of the bundle.
        job: Settings of the job.
        device: Number of the GPU, on CUDA.

    Raises:
        DimmlError: If the folder holds another bundle than the job's.
    """

    def __init__(self, bundle: Path, job: Job, device: int = 0) -> None:
        self._job = job
        self._predictor = Predictor.load(bundle, job.provider, job.threads, gpu=GpuOptions(device))
        if self._predictor.bundle.id != job.bundle:
            raise DimmlError(f"{bundle} holds {self._predictor.bundle.id}, not {job.bundle}")
        labels = self._predictor.labels if job.probabilities else ()
        self._schema = score_schema(list(self._predictor.kinds), labels, job.features)

    def score(self, rows: Sequence[ScoreRow]) -> pa.RecordBatch:
        """Return the scores of rows that are computed together, in order."""
        samples = [
            row.sample
            if isinstance(row.sample, InputError)
            else (row.sample, self._job.on_unreadable)
            for row in rows
        ]
        prepared = self._predictor.preprocess(self._predictor.decode(samples))
        ready = [item for item in prepared if isinstance(item, PreparedSample)]
        columns = self._score_columns(ready) if ready else {}
        if len(ready) < len(rows):
            columns = _with_errors(columns, prepared, self._schema)
        columns["id"] = pa.array([row.id for row in rows], pa.string())
        columns["bundle"] = pa.repeat(self._job.bundle, len(rows))
        arrays = [columns.get(f.name, pa.nulls(len(rows), f.type)) for f in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _score_columns(self, ready: Sequence[PreparedSample]) -> dict[str, pa.Array]:
        # Arrays become columns whole, without a Python object for each row.
        encoded = self._predictor.encode(ready)
        features = self._predictor.read_features(encoded) if self._job.features else None
        fused = self._predictor.fuse(encoded)
        labels = pa.array(self._predictor.labels, pa.string())
        best = fused.ranked[:, :1]
        columns = {
            "label": labels.take(pa.array(best[:, 0])),
            "confidence": _doubles(np.take_along_axis(fused.probabilities, best, axis=1)[:, 0]),
            "prediction_set": _prediction_sets(fused, labels),
        }
        if self._job.probabilities:
            doubles = [_doubles(column) for column in fused.probabilities.T]
            columns["probabilities"] = pa.StructArray.from_arrays(doubles, self._predictor.labels)
        for slot, name in enumerate(self._predictor.kinds):
            absent = ~fused.present[:, slot]
            label_index = pa.array(fused.modality_labels[:, slot], mask=absent)
            columns[f"{name}_present"] = pa.array(fused.present[:, slot])
            columns[f"{name}_label"] = labels.take(label_index)
            columns[f"{name}_confidence"] = _doubles(fused.modality_confidences[:, slot], absent)
            columns[f"{name}_weight"] = _doubles(fused.weights[:, slot])
            if features is not None:
                columns[f"{name}_features"] = _vectors(features[:, slot], absent)
        return columns


def _doubles(values: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
    return pa.array(values.astype(np.float64), mask=absent)


def _vectors(rows: np.ndarray, absent: np.ndarray) -> pa.Array:
    """Return float32 [N, D] as lists, null for absent rows."""
    count, size = rows.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * size)
    values = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(absent))


def _prediction_sets(fused: FusedBatch, labels: pa.Array) -> pa.Array:
    """Return the labels of each row's prediction set, the most probable first."""
    ranks = np.arange(fused.ranked.shape[1])
    label_index = fused.ranked[ranks < fused.set_sizes[:, None]]
    offsets = np.concatenate([[0], np.cumsum(fused.set_sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), labels.take(pa.array(label_index)))


def _with_errors(
    columns: Mapping[str, pa.Array],
    prepared: Sequence[PreparedSample | InputError],
    schema: pa.Schema,
) -> dict[str, pa.Array]:
    """Extend the columns of scored rows to all rows, null in the rest, and add the errors."""
    errors = [item if isinstance(item, InputError) else None for item in prepared]
    is_ready = np.array([error is None for error in errors])
    positions = pa.array(np.cumsum(is_ready) - 1, mask=~is_ready)
    extended = {name: column.take(positions) for name, column in columns.items()}
    for attribute in ("code", "field", "message"):
        name = f"error_{attribute}"
        values = [error and getattr(error, attribute) for error in errors]
        extended[name] = pa.array(values, schema.field(name).type)
    return extended


def score_schema(
    modalities: Sequence[str], labels: Sequence[str], features: bool = False
) -> pa.Schema:
    """Return the columns of scores without those kept from the input; see docs/scoring.md."""
    text, number = pa.string(), pa.float64()
    columns = [("id", text), ("label", text), ("confidence", number)]
    columns.append(("prediction_set", pa.list_(text)))
    types = (pa.bool_(), text, number, number, pa.list_(pa.float32()))
    suffixes = list(zip(SCORE_SUFFIXES, types, strict=True))[: None if features else -1]
    for name in modalities:
        columns += [(f"{name}_{suffix}", column_type) for suffix, column_type in suffixes]
    if labels:
        columns.append(("probabilities", pa.struct([(label, number) for label in labels])))
    return pa.schema([*columns, *((name, text) for name in _LAST_COLUMNS)])


def to_stream(batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema) -> bytes:
    """Return batches as an Arrow stream, the form in which scores cross processes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write(batch)
    return bytes(sink.getvalue().to_pybytes())


def from_stream(content: bytes) -> pa.Table:
    """Return the table of an Arrow stream."""
    return pa.ipc.open_stream(content).read_all()
