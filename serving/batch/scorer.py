"""From the rows of a window to their scores: what every process of a job runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from dimml.errors import DimmlError, InputError
from dimml.predictor import Predictor
from dimml.samples import Prediction
from serving.batch.inputs import ScoreRow
from serving.batch.job import Job

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
        self._predictor = Predictor.load(bundle, job.provider, job.threads, device=device)
        if self._predictor.bundle.id != job.bundle:
            raise DimmlError(f"{bundle} holds {self._predictor.bundle.id}, not {job.bundle}")
        self._schema = schema_of(
            list(self._predictor.kinds), self._predictor.labels if job.probabilities else ()
        )

    def score(self, rows: Sequence[ScoreRow]) -> pa.RecordBatch:
        """The scores of rows that are computed together, in order."""
        samples = [row.sample for row in rows if not isinstance(row.sample, InputError)]
        predicted = iter(
            self._predictor.predict_many(samples, on_unreadable=self._job.on_unreadable)
        )
        answers = [
            row.sample if isinstance(row.sample, InputError) else next(predicted) for row in rows
        ]
        columns = self._columns([row.id for row in rows], answers)
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _columns(
        self, ids: Sequence[str | None], answers: Sequence[Prediction | InputError]
    ) -> Mapping[str, list[Any]]:
        columns: dict[str, list[Any]] = {field.name: [None] * len(ids) for field in self._schema}
        columns["id"] = list(ids)
        columns["bundle"] = [self._job.bundle] * len(ids)
        for index, answer in enumerate(answers):
            if isinstance(answer, InputError):
                columns["error_code"][index] = answer.code
                columns["error_field"][index] = answer.field
                columns["error_message"][index] = answer.message
                continue
            columns["label"][index] = answer.label
            columns["confidence"][index] = answer.confidence
            columns["prediction_set"][index] = answer.prediction_set
            if self._job.probabilities:
                columns["probabilities"][index] = answer.probabilities
            for name, said in answer.modalities.items():
                columns[f"{name}_present"][index] = said.present
                columns[f"{name}_label"][index] = said.label
                columns[f"{name}_confidence"][index] = said.confidence
                columns[f"{name}_weight"][index] = said.weight
        return columns


def schema_of(modalities: Sequence[str], labels: Sequence[str]) -> pa.Schema:
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


def joined(scores: pa.Table | pa.RecordBatch, kept: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of an output: scores, then what is kept of the input."""
    columns = [
        scores.column(name) if name in scores.schema.names else kept.column(name)
        for name in schema.names
    ]
    return pa.table(columns, schema=schema)
