"""From the rows of a window to their scores: what every process of a job runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dimml.errors import DimmlError, InputError
from dimml.outputs import FusedBatch, PreparedSample
from dimml.predictor import Predictor
from dimml.runtime.providers import GpuOptions
from serving.offline.inputs import ScoreRow
from serving.offline.workspace import Job

_LAST = ("error_code", "error_field", "error_message", "bundle")


class Scorer:
    """A predictor with the settings of a job.

    Args:
        bundle: its folder.
        job: its settings.
        device: number of the GPU, on CUDA.

    Raises:
        DimmlError: the folder holds another bundle than the job's.
    """

    def __init__(self, bundle: Path, job: Job, device: int = 0) -> None:
        self._job = job
        self._predictor = Predictor.load(bundle, job.provider, job.threads, gpu=GpuOptions(device))
        if self._predictor.bundle.id != job.bundle:
            raise DimmlError(f"{bundle} holds {self._predictor.bundle.id}, not {job.bundle}")
        self._schema = score_schema(
            list(self._predictor.kinds), self._predictor.labels if job.probabilities else ()
        )

    def score(self, rows: Sequence[ScoreRow]) -> pa.RecordBatch:
        """The scores of rows that are computed together, in order."""
        prepared = self._predictor.preprocess(
            self._predictor.decode(
                [
                    row.sample
                    if isinstance(row.sample, InputError)
                    else (row.sample, self._job.on_unreadable)
                    for row in rows
                ]
            )
        )
        ready = [item for item in prepared if isinstance(item, PreparedSample)]
        columns = self._fused(ready) if ready else {}
        if len(ready) < len(rows):
            columns = _expand_rows(columns, prepared, self._schema)
        columns["id"] = pa.array([row.id for row in rows], pa.string())
        columns["bundle"] = pa.repeat(self._job.bundle, len(rows))
        arrays = [columns.get(f.name, pa.nulls(len(rows), f.type)) for f in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _fused(self, ready: Sequence[PreparedSample]) -> dict[str, pa.Array]:
        """The columns of rows that can be predicted, made without a Python object for each."""
        fused = self._predictor.fuse(self._predictor.encode(ready))
        labels = pa.array(self._predictor.labels, pa.string())
        best = fused.ranked[:, :1]
        columns = {
            "label": labels.take(pa.array(best[:, 0])),
            "confidence": _numbers(np.take_along_axis(fused.probabilities, best, axis=1)[:, 0]),
            "prediction_set": _sets(fused, labels),
        }
        if self._job.probabilities:
            each = [_numbers(column) for column in fused.probabilities.T]
            columns["probabilities"] = pa.StructArray.from_arrays(each, self._predictor.labels)
        for slot, name in enumerate(self._predictor.kinds):
            absent = ~fused.present[:, slot]
            said = pa.array(fused.modality_labels[:, slot], mask=absent)
            columns[f"{name}_present"] = pa.array(fused.present[:, slot])
            columns[f"{name}_label"] = labels.take(said)
            columns[f"{name}_confidence"] = _numbers(fused.modality_confidences[:, slot], absent)
            columns[f"{name}_weight"] = _numbers(fused.weights[:, slot])
        return columns


def _numbers(values: np.ndarray, absent: np.ndarray | None = None) -> pa.Array:
    return pa.array(values.astype(np.float64), mask=absent)


def _sets(fused: FusedBatch, labels: pa.Array) -> pa.Array:
    """The prediction sets: lists of labels, the most probable first."""
    places = np.arange(fused.ranked.shape[1])
    flat = fused.ranked[places < fused.set_sizes[:, None]]
    ends = np.concatenate([[0], np.cumsum(fused.set_sizes)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), labels.take(pa.array(flat)))


def _expand_rows(
    columns: Mapping[str, pa.Array],
    prepared: Sequence[PreparedSample | InputError],
    schema: pa.Schema,
) -> dict[str, pa.Array]:
    """Columns of the rows that have answers as columns of all, beside those of errors."""
    errors = [item if isinstance(item, InputError) else None for item in prepared]
    is_ready = np.array([error is None for error in errors])
    places = pa.array(np.cumsum(is_ready) - 1, mask=~is_ready)
    expanded = {name: column.take(places) for name, column in columns.items()}
    for part in ("code", "field", "message"):
        found = [error and getattr(error, part) for error in errors]
        expanded[f"error_{part}"] = pa.array(found, schema.field(f"error_{part}").type)
    return expanded


def score_schema(modalities: Sequence[str], labels: Sequence[str]) -> pa.Schema:
    """The columns of scores, without those kept from the input; see docs/scoring.md."""
    text, number = pa.string(), pa.float64()
    columns: list[tuple[str, Any]] = [
        ("id", text),
        ("label", text),
        ("confidence", number),
        ("prediction_set", pa.list_(text)),
    ]
    for name in modalities:
        columns += [
            (f"{name}_present", pa.bool_()),
            (f"{name}_label", text),
            (f"{name}_confidence", number),
            (f"{name}_weight", number),
        ]
    if labels:
        columns.append(("probabilities", pa.struct([(label, number) for label in labels])))
    return pa.schema([*columns, *((name, text) for name in _LAST)])


def output_table(scores: pa.Table | pa.RecordBatch, kept: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of an output: scores, then what is kept of the input."""
    columns = [
        scores.column(name) if name in scores.schema.names else kept.column(name)
        for name in schema.names
    ]
    return pa.table(columns, schema=schema)


def to_stream(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> bytes:
    """Return batches as an Arrow stream, which crosses processes faster than their pickle."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_stream(content: bytes) -> pa.Table:
    """Return the table of an Arrow stream."""
    return pa.ipc.open_stream(content).read_all()
