"""Run a scoring job: keep the parts that are complete, score the others, and write the report."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa

from dimml import __version__
from dimml.bundle import Bundle
from dimml.details import late_dim
from dimml.errors import DimmlError, InterruptedRunError, UsageError
from dimml.interrupt import stop_on_signal
from dimml.machine import available_cores, cuda_devices
from dimml.probe import settle_provider
from dimml.progress import print_status
from dimml.runtime.providers import Provider
from dimml.runtime.session import ONNXRUNTIME_VERSION
from serving.offline.inputs import Inputs
from serving.offline.local import LocalEngine
from serving.offline.meter import Meter
from serving.offline.remote import find_tables, table_checksum
from serving.offline.scorer import score_schema
from serving.offline.workspace import PART_ROWS, WINDOW_ROWS, Job, ScoredPart, Workspace

if TYPE_CHECKING:
    from serving.offline.ray_engine import RayEngine

MAX_WORKERS_PER_GPU = 4
"""Processes that decode for one GPU. Each has its own CUDA context, which takes GPU memory."""

_PACKAGES = ("numpy", "pyarrow", "pillow", "soundfile", "tokenizers")


@dataclass(frozen=True)
class ScoreOptions:
    """Options that decide what the output holds.

    Attributes:
        columns: Modality to column, where their names differ.
        keep: Output column to the input column that it carries.
        schemes: URL schemes that may be read.
        keep_na: Whether CSV cells such as `NA` and `null` are text, rather than empty.
        on_unreadable: See `Predictor.predict`.
        probabilities: Whether to add a column of all probabilities.
        features: Whether to add a column of the features of each modality.
        part_rows: Rows of an output part; None for those of the resumed job, or the default.
        window_rows: Rows that are computed together; None has the same meaning.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[str, ...] = ()
    keep_na: bool = False
    on_unreadable: Literal["error", "absent"] = "error"
    probabilities: bool = False
    features: bool = False
    part_rows: int | None = None
    window_rows: int | None = None


@dataclass(frozen=True)
class EngineOptions:
    """Options that decide where a job runs; the scores do not depend on them.

    Attributes:
        engine: "local" or "ray".
        providers: "auto", "cuda", "tensorrt" or "cpu".
        workers: Number of processes; None for as many as have room.
        address: Address of a Ray cluster.
        gpus: GPUs of one process on the cluster.
    """

    engine: str = "local"
    providers: str = "auto"
    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0

    def provider(self, bundle: Path) -> Provider:
        """Return the execution provider for a bundle."""
        if self.engine == "local" or self.providers not in ("auto", "cuda", "tensorrt"):
            return settle_provider(bundle, self.providers)
        # The machine that starts a job on a cluster need not have the GPUs of its nodes.
        auto = "cuda" if self.gpus else "cpu"
        return cast(Provider, auto if self.providers == "auto" else self.providers)


def score_tables(
    bundle: Path,
    table: str,
    out: Path,
    options: ScoreOptions | None = None,
    engine: EngineOptions | None = None,
    *,
    max_errors: int | None = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Score tables into a folder of parts or one file, and return the report written beside it.

    Args:
        bundle: Folder of the bundle.
        table: A table, a folder or a pattern of tables, or a URL.
        out: A folder, or a `.parquet`, `.jsonl` or `.csv` file.
        options: What the output holds.
        engine: Where the job runs.
        max_errors: Limit of the rows with errors; None for no limit.
        overwrite: Whether to remove earlier scores.
        as_json: Whether to write events to standard output instead of progress to standard error.

    Raises:
        UsageError: If an argument, a table or the content of the output does not fit.
        InterruptedRunError: If a signal stopped the job; the same call resumes it.
        DimmlError: If more rows than `max_errors` have errors, or the engine fails.
    """
    options, engine = options or ScoreOptions(), engine or EngineOptions()
    loaded, workspace = Bundle.load(bundle), Workspace(out)
    tables = find_tables(table, options.schemes, leave_out=(out, workspace.folder))
    workspace.check(tables, overwrite)
    inputs = _inputs(loaded, tables, options)
    schema = _schema(loaded, inputs, options)
    with workspace.locked():
        before = None if overwrite else workspace.stored_job()
        job = _job(loaded, inputs, options, engine, before)
        done = workspace.prepare(job, overwrite)
        if report := workspace.report():
            print_status(f"{out} is complete already; --overwrite scores it again")
            meter = Meter(report["rows"], report["rows"], sum(report["errors"].values()), as_json)
        else:
            if done:
                print_status(f"going on; parts in {workspace.folder}: {len(done):,}")
            rows, errors = workspace.counts()
            score = _engine(loaded, engine, job).score
            meter = Meter(inputs.count(), rows, sum(errors.values()), as_json)
            parts = score(inputs, job, schema, done, meter.total)
            report = _write_parts(parts, workspace, job, schema, meter, max_errors)
        meter.event("done", output=str(out), errors_by_code=report["errors"])
        _check_errors(meter, max_errors)
        return report


def _write_parts(
    parts: Iterator[ScoredPart],
    workspace: Workspace,
    job: Job,
    schema: pa.Schema,
    meter: Meter,
    max_errors: int | None,
) -> dict[str, Any]:
    """Write the missing parts as the engine yields them, then the report, and return the report."""
    interrupted = InterruptedRunError(f"stopped; the same command goes on with {workspace.out}")
    stopping = "stopping after this part; once more stops at once"
    with meter, stop_on_signal(stopping, lambda: interrupted) as stop:
        meter.event("start", output=str(workspace.out))
        _check_errors(meter, max_errors)
        for number, tables in parts:
            workspace.write_part(number, pa.concat_tables(meter.counted(tables)))
            meter.event("part", part=number)
            _check_errors(meter, max_errors)
            if stop.is_set():
                raise interrupted
        if not meter.total:
            # The part of no rows holds the columns, so that readers find the same schema.
            workspace.write_part(0, schema.empty_table())
        report = _report(workspace, job, meter)
        workspace.finish(report)
        return report


def _inputs(bundle: Bundle, tables: tuple[str, ...], options: ScoreOptions) -> Inputs:
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    if unknown := sorted(options.columns.keys() - kinds.keys()):
        raise UsageError(
            f"--column: the bundle has no modality {unknown[0]!r}; it has {', '.join(kinds)}"
        )
    layout = bundle.manifest.table
    columns = {name: options.columns.get(name, layout.column(name)) for name in kinds}
    inputs = Inputs(
        tables,
        kinds,
        columns,
        dict(options.keep),
        options.schemes,
        layout.column("id"),
        options.keep_na or layout.keep_na,
    )
    if warning := inputs.check(options.columns):
        print_status(f"warning: {warning}")
    return inputs


def _schema(bundle: Bundle, inputs: Inputs, options: ScoreOptions) -> pa.Schema:
    """Return the columns of the output: the scores, then the columns kept."""
    labels = bundle.manifest.labels if options.probabilities else ()
    if options.features:
        # An error of the bundle must come before the job starts.
        late_dim(bundle)
    scores = score_schema(list(inputs.kinds), labels, options.features)
    if taken := sorted(inputs.keep.keys() & set(scores.names)):
        raise UsageError(
            f"--keep: {', '.join(taken)} is a column of the scores: rename it, as in "
            f"--keep input_{taken[0]}={inputs.keep[taken[0]]}"
        )
    return pa.unify_schemas([scores, inputs.kept_schema()])


def _job(
    bundle: Bundle,
    inputs: Inputs,
    options: ScoreOptions,
    engine: EngineOptions,
    before: Job | None,
) -> Job:
    """Return the job; settings that the user left open are those of the resumed job."""
    stored = before if engine.providers == "auto" else None
    return Job(
        bundle=bundle.id,
        tables={table: table_checksum(table, inputs.schemes) for table in inputs.tables},
        columns=dict(inputs.columns),
        keep=dict(inputs.keep),
        keep_na=inputs.keep_na,
        on_unreadable=options.on_unreadable,
        probabilities=options.probabilities,
        features=options.features,
        provider=stored.provider if stored else engine.provider(bundle.path),
        threads=before.threads if before else 1,
        part_rows=options.part_rows or (before.part_rows if before else PART_ROWS),
        window_rows=options.window_rows or (before.window_rows if before else WINDOW_ROWS),
    )


def _engine(bundle: Bundle, options: EngineOptions, job: Job) -> LocalEngine | RayEngine:
    if options.engine == "ray":
        from serving.offline.ray_engine import RayEngine

        return RayEngine(bundle.path, options.address, options.workers, options.gpus)
    cores, devices = available_cores(), 1
    workers = cores
    if job.provider != "cpu":
        devices = max(1, cuda_devices())
        workers = devices * max(1, min(MAX_WORKERS_PER_GPU, cores // devices))
    return LocalEngine(bundle.path, options.workers or workers, devices)


def _report(workspace: Workspace, job: Job, meter: Meter) -> dict[str, Any]:
    rows, errors = workspace.counts()
    return {
        "bundle": job.bundle,
        "rows": rows,
        "parts": max(1, -(-rows // job.part_rows)),
        "errors": dict(sorted(errors.items())),
        "last_run": {
            "rows": meter.scored,
            "seconds": round(meter.seconds, 3),
            "rows_per_second": round(meter.rows_per_second, 1),
        },
        "versions": {
            "dimml": __version__,
            "python": platform.python_version(),
            "onnxruntime": ONNXRUNTIME_VERSION,
            **{name: version(name) for name in _PACKAGES},
        },
        "job": job.model_dump(mode="json"),
    }


def _check_errors(meter: Meter, limit: int | None) -> None:
    if limit is not None and meter.errors > limit:
        raise DimmlError(
            f"{meter.errors:,} rows have errors, more than --max-errors {limit:,}; the scores are "
            "kept: the same command with a higher limit goes on"
        )
