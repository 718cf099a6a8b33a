"""The command `dimml score`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

from dimml.errors import UsageError
from dimml.progress import print_status
from serving.offline.job import EngineOptions, ScoreOptions, score_tables
from serving.offline.workspace import PART_ROWS, WINDOW_ROWS

_INPUT, _OUTPUT, _MACHINE = "Input", "Output", "Machine"


def _option(panel: str, text: str, **settings: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, show_default=False, **settings)


def _flag(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=_OUTPUT)


OnUnreadable = StrEnum("OnUnreadable", ["error", "absent"])
EngineName = StrEnum("EngineName", ["local", "ray"])

# Each parameter has a type of its own, which keeps the signature below short.
_Texts = list[str] | None
_Count = int | None
_Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
_Table = Annotated[str, typer.Argument(metavar="INPUT", help="Table, folder, pattern or URL.")]
_Out = Annotated[
    Path, typer.Argument(metavar="OUTPUT", help="Folder, or .parquet, .jsonl or .csv file.")
]
_Column = Annotated[_Texts, _option(_INPUT, "Column of a modality, as MODALITY=COLUMN.")]
_KeepNa = Annotated[bool, _flag("--keep-na", "Read CSV cells such as NA and null as text.")]
_OnUnreadable = Annotated[
    OnUnreadable, _option(_INPUT, "Default: error; absent: let other modalities answer.")
]
_AllowScheme = Annotated[_Texts, _option(_INPUT, "URL scheme that may be read, such as s3.")]
_Keep = Annotated[_Texts, _option(_OUTPUT, "Input column to keep, or NAME=COLUMN to rename it.")]
_Probabilities = Annotated[bool, _flag("--probabilities", "Add a column of all probabilities.")]
_Features = Annotated[bool, _flag("--features", "Add a column of each modality's features.")]
_PartRows = Annotated[_Count, _option(_OUTPUT, f"Rows of a part; default: {PART_ROWS:,}.", min=1)]
_MaxErrors = Annotated[_Count, _option(_OUTPUT, "Fail if more rows than this have errors.", min=0)]
_Overwrite = Annotated[bool, _flag("--overwrite", "Remove earlier scores.")]
_AsJson = Annotated[bool, _flag("--json", "Write events as JSON lines.")]
_Providers = Annotated[
    str, _option(_MACHINE, "auto (default), cuda, tensorrt or cpu.", envvar="DIMML_PROVIDERS")
]
_Workers = Annotated[
    _Count, _option(_MACHINE, "Processes; default: one per core, on CUDA up to 4 per GPU.", min=1)
]
_WindowRows = Annotated[
    _Count, _option(_MACHINE, f"Rows computed together; default: {WINDOW_ROWS}.", min=1)
]
_Engine = Annotated[EngineName, _option(_MACHINE, "Default: local; ray for a cluster.")]
_RayAddress = Annotated[str | None, _option(_MACHINE, "Cluster, or auto; default: start one here.")]
_Gpus = Annotated[float, _option(_MACHINE, "GPUs of a process on a cluster.", min=0, max=1_000)]


def score(
    bundle: _Bundle,
    table: _Table,
    out: _Out,
    column: _Column = None,
    keep_na: _KeepNa = False,
    on_unreadable: _OnUnreadable = OnUnreadable.error,
    allow_scheme: _AllowScheme = None,
    keep: _Keep = None,
    probabilities: _Probabilities = False,
    features: _Features = False,
    part_rows: _PartRows = None,
    max_errors: _MaxErrors = None,
    overwrite: _Overwrite = False,
    as_json: _AsJson = False,
    providers: _Providers = "auto",
    workers: _Workers = None,
    window_rows: _WindowRows = None,
    engine: _Engine = EngineName.local,
    ray_address: _RayAddress = None,
    gpus: _Gpus = 0.0,
) -> None:
    """Predict every row of a table; the output of an unreadable row is its error.

    After a stop, a failure or a crash, the same command resumes with the parts that are complete.
    Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 stopped. The first Ctrl-C or SIGTERM
    stops after the current part, the second at once.

    Examples:
        dimml score runs/digits/bundle runs/digits/data/manifest.parquet scores.parquet

        dimml score runs/shop/bundle 'exports/*.csv' scores --column photo=image_path --keep sku
    """
    if engine == "local" and (ray_address or gpus):
        raise UsageError("--ray-address and --gpus go with --engine ray")
    options = ScoreOptions(
        columns=_pairs("column", column),
        keep=_pairs("keep", keep),
        schemes=tuple(scheme.lower() for scheme in allow_scheme or ()),
        keep_na=keep_na,
        on_unreadable=cast(Literal["error", "absent"], on_unreadable.value),
        probabilities=probabilities,
        features=features,
        part_rows=part_rows,
        window_rows=window_rows,
    )
    report = score_tables(
        bundle,
        table,
        out,
        options,
        EngineOptions(engine.value, providers, workers, ray_address, gpus),
        max_errors=max_errors,
        overwrite=overwrite,
        as_json=as_json,
    )
    if not as_json:
        errors = "".join(f", {count:,} {code}" for code, count in report["errors"].items())
        print_status(f"{report['rows']:,} rows{errors or ', none with errors'}")
        typer.echo(out)


def _pairs(option: str, arguments: Sequence[str] | None) -> dict[str, str]:
    """Parse `NAME=COLUMN`, and for `--keep` also `COLUMN`."""
    pairs: dict[str, str] = {}
    for text in arguments or ():
        name, equals, column = text.partition("=")
        if not equals and option == "keep":
            column = name
        if not (name and column):
            raise UsageError(f"--{option} {text!r}: expected NAME=COLUMN")
        if name in pairs:
            raise UsageError(f"--{option}: {name} is given twice")
        pairs[name] = column
    return pairs
