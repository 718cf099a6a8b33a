"""A job from its arguments to its report: what is there is kept, what is missing is scored."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import pyarrow as pa

from dimml import __version__
from dimml.bundle import Bundle
from dimml.errors import DimmlError, InterruptedRunError, UsageError
from dimml.interrupt import stop_on_signal
from dimml.machine import available_cores, cuda_devices
from dimml.probe import settle_provider
from dimml.progress import print_status
from dimml.runtime.providers import Provider
from dimml.runtime.session import ONNXRUNTIME_VERSION
from serving.offline.find import find_tables
from serving.offline.inputs import Inputs
from serving.offline.local import Local
from serving.offline.meter import Meter
from serving.offline.scorer import schema_of
from serving.offline.workspace import PART_ROWS, WINDOW_ROWS, Job, Part, Workspace, fingerprint

MAX_WORKERS_PER_GPU = 4
"""Processes that decode for one GPU; each has a CUDA context of its own."""

_PACKAGES = ("numpy", "pyarrow", "pillow", "soundfile", "tokenizers")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a job.

    Attributes:
        columns: modality to column, where their names differ.
        keep: output column to the input column that it carries.
        schemes: of URLs that may be read.
        on_unreadable: see `Predictor.predict`.
        probabilities: whether to add a column of them.
        part_rows, window_rows: None for those of the job that is taken up, or the usual ones.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    schemes: tuple[str, ...] = ()
    on_unreadable: Literal["error", "absent"] = "error"
    probabilities: bool = False
    part_rows: int | None = None
    window_rows: int | None = None


@dataclass(frozen=True)
class Machine:
    """What it runs on; the scores do not depend on it.

    Attributes:
        engine: "local" or "ray".
        providers: "auto", "cuda", "tensorrt" or "cpu".
        workers: processes; None for what there is room for.
        address: of a Ray cluster.
        gpus: of one process on it.
    """

    engine: str = "local"
    providers: str = "auto"
    workers: int | None = None
    address: str | None = None
    gpus: float = 0.0

    def provider(self, bundle: Path) -> Provider:
        """The provider that a bundle is scored on, which on a cluster this machine may lack."""
        if self.engine == "ray" and self.providers == "auto":
            return "cuda" if self.gpus else "cpu"
        if self.engine == "ray" and self.providers in ("cuda", "tensorrt"):
            return cast(Provider, self.providers)
        return settle_provider(bundle, self.providers)


class Engine(Protocol):
    """What scores parts: `Local` or `RayEngine`."""

    def score(
        self, inputs: Inputs, job: Job, schema: pa.Schema, done: Collection[int], total: int
    ) -> Iterator[Part]:
        """The parts that are not done, see `Local.score`."""


def score_tables(
    bundle: Path,
    table: str,
    out: Path,
    wanted: Wanted | None = None,
    machine: Machine | None = None,
    *,
    max_errors: int | None = None,
    overwrite: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Scores tables into a folder of parts or one file.

    Args:
        bundle: its folder.
        table: a table, a folder or a pattern of tables, or a URL.
        out: a folder, or a `.parquet`, `.jsonl` or `.csv` file.
        wanted: which columns, and how they are scored.
        machine: what it runs on.
        max_errors: rows that may have errors; None for any number.
        overwrite: drop what was scored before.
        as_json: write events to standard output in place of progress to standard error.

    Returns:
        The report, as it is written beside the scores.

    Raises:
        UsageError: an argument, a table or what is in the output does not fit.
        InterruptedRunError: stopped; calling it again goes on.
        DimmlError: more errors than `max_errors`, or what scores died.
    """
    wanted, machine = wanted or Wanted(), machine or Machine()
    loaded, space = Bundle.load(bundle), Workspace(out)
    tables = find_tables(table, wanted.schemes, leave_out=(out, space.folder))
    space.check(tables, overwrite)
    inputs = _inputs(loaded, tables, wanted)
    schema = _schema(loaded, inputs, wanted)
    with space.locked():
        before = None if overwrite else space.stored()
        job = _job(loaded, inputs, wanted, machine, before)
        done = space.prepare(job, overwrite)
        if report := space.report():
            print_status(f"{out} is complete already; --overwrite scores it again")
            meter = Meter(report["rows"], report["rows"], sum(report["errors"].values()), as_json)
            meter.event("done", output=str(out), errors_by_code=report["errors"])
            _check_errors(meter, max_errors)
            return report
        if done:
            print_status(f"going on; parts in {space.folder}: {len(done):,}")
        counts = space.errors()
        rows = counts.pop("rows")
        engine = _engine(loaded, machine, job)
        with (
            Meter(inputs.count(), rows, sum(counts.values()), as_json) as meter,
            stop_on_signal(
                "stopping after this part; once more stops at once", lambda: _interrupted(out)
            ) as stop,
        ):
            meter.event("start", output=str(out))
            _check_errors(meter, max_errors)
            for number, windows in engine.score(inputs, job, schema, done, meter.total):
                space.write_part(number, pa.concat_tables(_counted(windows, meter)))
                meter.event("part", part=number)
                _check_errors(meter, max_errors)
                if stop.is_set():
                    raise _interrupted(out)
            if not meter.total:
                space.write_part(0, schema.empty_table())
            report = _report(space, job, meter)
            space.finish(report)
            meter.event("done", output=str(out), errors_by_code=report["errors"])
            return report


def _inputs(bundle: Bundle, tables: Sequence[str], wanted: Wanted) -> Inputs:
    kinds = {name: spec.kind for name, spec in bundle.manifest.modalities.items()}
    if unknown := sorted(wanted.columns.keys() - kinds.keys()):
        raise UsageError(
            f"--column: the bundle has no modality {unknown[0]!r}; it has {', '.join(kinds)}"
        )
    columns = {name: wanted.columns.get(name, name) for name in kinds}
    inputs = Inputs(tuple(tables), kinds, columns, dict(wanted.keep), wanted.schemes)
    if warning := inputs.check():
        print_status(f"warning: {warning}")
    return inputs


def _schema(bundle: Bundle, inputs: Inputs, wanted: Wanted) -> pa.Schema:
    """The output's columns: the scores, then those kept."""
    labels = bundle.manifest.labels if wanted.probabilities else ()
    scores = schema_of(list(inputs.kinds), labels)
    if taken := sorted(inputs.keep.keys() & set(scores.names)):
        raise UsageError(
            f"--keep: {', '.join(taken)} is a column of the scores: rename it, as in "
            f"--keep input_{taken[0]}={inputs.keep[taken[0]]}"
        )
    return pa.unify_schemas([scores, inputs.kept_schema()])


def _job(
    bundle: Bundle, inputs: Inputs, wanted: Wanted, machine: Machine, before: Job | None
) -> Job:
    """The job; what was left open and its bytes depend on is as at the first start."""
    return Job(
        bundle=bundle.id,
        tables={table: fingerprint(table, inputs.schemes) for table in inputs.tables},
        columns=dict(inputs.columns),
        keep=dict(inputs.keep),
        on_unreadable=wanted.on_unreadable,
        probabilities=wanted.probabilities,
        provider=before.provider
        if before and machine.providers == "auto"
        else machine.provider(bundle.path),
        threads=before.threads if before else 1,
        part_rows=wanted.part_rows or (before.part_rows if before else PART_ROWS),
        window_rows=wanted.window_rows or (before.window_rows if before else WINDOW_ROWS),
    )


def _engine(bundle: Bundle, machine: Machine, job: Job) -> Engine:
    if machine.engine == "ray":
        from serving.offline.ray_engine import RayEngine

        return RayEngine(bundle.path, machine.address, machine.workers, machine.gpus)
    cores, devices = available_cores(), 1
    usual = cores
    if job.provider != "cpu":
        devices = max(1, cuda_devices())
        usual = devices * max(1, min(MAX_WORKERS_PER_GPU, cores // devices))
    return Local(bundle.path, machine.workers or usual, devices)


def _counted(windows: Iterable[pa.Table], meter: Meter) -> list[pa.Table]:
    tables = []
    for table in windows:
        tables.append(table)
        codes = table.column("error_code")
        meter.add(len(table), len(codes) - codes.null_count)
    return tables


def _report(space: Workspace, job: Job, meter: Meter) -> dict[str, Any]:
    counts = space.errors()
    rows = counts.pop("rows")
    return {
        "bundle": job.bundle,
        "rows": rows,
        "parts": max(1, -(-rows // job.part_rows)),
        "errors": dict(sorted(counts.items())),
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


def _check_errors(meter: Meter, most: int | None) -> None:
    if most is not None and meter.errors > most:
        raise DimmlError(
            f"{meter.errors:,} rows have errors, more than --max-errors {most:,}; what is scored "
            "is kept: the same command with a higher number goes on"
        )


def _interrupted(out: Path) -> InterruptedRunError:
    return InterruptedRunError(f"stopped; the same command goes on with {out}")
