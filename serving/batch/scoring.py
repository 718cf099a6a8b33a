"""`dimml score`: every row of a table, in constant memory, in order."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet
import typer

from dimml.errors import InputError, UsageError
from dimml.predictor import BATCH_SIZE, OnUnreadable, Predictor
from dimml.progress import say, track
from dimml.samples import Prediction
from dimml.table import Row, count_rows, missing_columns, read_rows


def score(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    table: Annotated[Path, typer.Argument(help="Table of samples.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    on_unreadable: Annotated[str, typer.Option(help="error or absent.")] = "error",
    providers: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column of all probabilities.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON.")] = False,
) -> None:
    """Predict every row of a table; a row that cannot be read gets its error.

    Examples:
        dimml score runs/digits/bundle runs/digits/data/manifest.parquet out.parquet
    """
    if out.suffix.lower() != ".parquet":
        raise UsageError(f"{out}: the output is a .parquet file")
    if out.exists() and table.exists() and out.samefile(table):
        raise UsageError(f"{out} is the table itself: name another file for the output")
    if on_unreadable not in ("error", "absent"):
        raise UsageError(f"--on-unreadable is error or absent, not {on_unreadable!r}")
    predictor = Predictor.load(bundle, providers)
    rows, errors = score_table(predictor, table, out, on_unreadable, probabilities)  # type: ignore[arg-type]
    say(f"{rows} rows, {errors} with errors")
    typer.echo(json.dumps({"output": str(out), "rows": rows, "errors": errors}) if as_json else out)


def score_table(
    predictor: Predictor,
    table: Path,
    out: Path,
    on_unreadable: OnUnreadable = "error",
    probabilities: bool = False,
) -> tuple[int, int]:
    """Scores a table into one Parquet file, which appears when it is complete.

    Returns:
        How many rows there were, and how many of them have an error.
    """
    kinds = {name: spec.kind for name, spec in predictor.bundle.manifest.modalities.items()}
    rows = track(read_rows(table, kinds), "scoring", count_rows(table))
    if missing := missing_columns(table, kinds):
        say(f"warning: {missing}; what has no column counts as absent")
    schema = _schema(list(kinds), predictor.labels if probabilities else ())
    total = errors = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / out.name
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for batch in _batches(rows):
                answers = predictor.predict_many(
                    [row.sample for row in batch], on_unreadable=on_unreadable
                )
                records = [
                    _record(row.id, answer, predictor.bundle.id)
                    for row, answer in zip(batch, answers, strict=True)
                ]
                writer.write_table(pa.Table.from_pylist(records, schema))
                total += len(batch)
                errors += sum(isinstance(answer, InputError) for answer in answers)
        temporary.replace(out)
    return total, errors


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, BATCH_SIZE)):
        yield batch


def _schema(modalities: list[str], labels: tuple[str, ...]) -> pa.Schema:
    columns: list[tuple[str, Any]] = [
        ("id", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float64()),
        ("prediction_set", pa.list_(pa.string())),
    ]
    for name in modalities:
        columns += [
            (f"{name}_present", pa.bool_()),
            (f"{name}_label", pa.string()),
            (f"{name}_confidence", pa.float64()),
            (f"{name}_weight", pa.float64()),
        ]
    if labels:
        columns.append(("probabilities", pa.struct([(label, pa.float64()) for label in labels])))
    columns += [(f"error_{part}", pa.string()) for part in ("code", "field", "message")]
    return pa.schema([*columns, ("bundle", pa.string())])


def _record(identifier: str, answer: Prediction | InputError, bundle: str) -> dict[str, Any]:
    if isinstance(answer, InputError):
        return {
            "id": identifier,
            "error_code": answer.code,
            "error_field": answer.field,
            "error_message": answer.message,
            "bundle": bundle,
        }
    record: dict[str, Any] = {
        "id": identifier,
        "label": answer.label,
        "confidence": answer.confidence,
        "prediction_set": list(answer.prediction_set),
        "probabilities": dict(answer.probabilities),
        "bundle": bundle,
    }
    for name, output in answer.modalities.items():
        record[f"{name}_present"] = output.present
        record[f"{name}_label"] = output.label
        record[f"{name}_confidence"] = output.confidence
        record[f"{name}_weight"] = output.weight
    return record
