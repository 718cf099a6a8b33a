"""`dimml score`: every row of a table, in order, whatever happens on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dimml.errors import UsageError
from dimml.progress import print_status
from serving.offline.job import Machine, Wanted, score_tables
from serving.offline.workspace import PART_ROWS, WINDOW_ROWS

_INPUT, _OUTPUT, _MACHINE = "Input", "Output", "Machine"
ENGINES = ("local", "ray")


def _option(text: str, panel: str, envvar: str | None = None) -> Any:
    return typer.Option(help=text, rich_help_panel=panel, show_default=False, envvar=envvar)


def _flag(name: str, text: str, panel: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel)


def score(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    table: Annotated[
        str, typer.Argument(metavar="INPUT", help="Table, folder or pattern of tables, or URL.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Folder, or .parquet, .jsonl or .csv file.")
    ],
    column: Annotated[
        list[str] | None, _option("MODALITY=COLUMN, where their names differ.", _INPUT)
    ] = None,
    on_unreadable: Annotated[
        str, _option("error (default), or absent: let the other modalities answer.", _INPUT)
    ] = "error",
    allow_scheme: Annotated[
        list[str] | None, _option("Scheme of URLs that may be read, such as s3.", _INPUT)
    ] = None,
    keep: Annotated[
        list[str] | None, _option("Input column to carry, or NAME=COLUMN to rename it.", _OUTPUT)
    ] = None,
    probabilities: Annotated[
        bool, _flag("--probabilities", "Add a column of all probabilities.", _OUTPUT)
    ] = False,
    part_rows: Annotated[
        int | None, _option(f"Rows of a part; default: {PART_ROWS:,}.", _OUTPUT)
    ] = None,
    max_errors: Annotated[
        int | None, _option("Fail once more rows than this have errors.", _OUTPUT)
    ] = None,
    overwrite: Annotated[bool, _flag("--overwrite", "Drop what was scored before.", _OUTPUT)] = (
        False
    ),
    as_json: Annotated[bool, _flag("--json", "Events as JSON lines.", _OUTPUT)] = False,
    providers: Annotated[
        str,
        _option("auto (default), cuda, tensorrt or cpu.", _MACHINE, envvar="DIMML_PROVIDERS"),
    ] = "auto",
    workers: Annotated[
        int | None,
        _option("Processes; default: one per core, on CUDA up to 4 per GPU.", _MACHINE),
    ] = None,
    window_rows: Annotated[
        int | None, _option(f"Rows computed together; default: {WINDOW_ROWS}.", _MACHINE)
    ] = None,
    engine: Annotated[str, _option("local (default), or ray for a cluster.", _MACHINE)] = "local",
    ray_address: Annotated[
        str | None, _option("Of the cluster, such as auto; default: start one here.", _MACHINE)
    ] = None,
    gpus: Annotated[
        float, _option("GPUs of one process on a cluster, such as 0.5; default: 0.", _MACHINE)
    ] = 0.0,
) -> None:
    """Predict every row of a table; a row that cannot be read gets its error.

    Stopped at any moment, even killed, the same command goes on with the parts that are there.
    Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 stopped (Ctrl-C or SIGTERM finish the
    part in hand; a second one does not).

    Examples:
        dimml score runs/digits/bundle runs/digits/data/manifest.parquet scores.parquet

        dimml score runs/shop/bundle 'exports/*.csv' scores --column photo=image_path --keep sku
    """
    _at_least(1, part_rows=part_rows, workers=workers, window_rows=window_rows)
    _at_least(0, max_errors=max_errors, gpus=gpus)
    _one_of(("error", "absent"), on_unreadable=on_unreadable)
    _one_of(ENGINES, engine=engine)
    if engine == "local" and (ray_address or gpus):
        raise UsageError("--ray-address and --gpus go with --engine ray")
    report = score_tables(
        bundle,
        table,
        out,
        Wanted(
            columns=_pairs("column", column),
            keep=_pairs("keep", keep),
            schemes=tuple(scheme.lower() for scheme in allow_scheme or ()),
            on_unreadable=on_unreadable,  # type: ignore[arg-type]
            probabilities=probabilities,
            part_rows=part_rows,
            window_rows=window_rows,
        ),
        Machine(engine, providers, workers, ray_address, gpus),
        max_errors=max_errors,
        overwrite=overwrite,
        as_json=as_json,
    )
    if not as_json:
        errors = "".join(f", {count:,} {code}" for code, count in report["errors"].items())
        print_status(f"{report['rows']:,} rows{errors or ', none with errors'}")
        typer.echo(out)


def _at_least(least: int, **given: float | None) -> None:
    for name, value in given.items():
        if value is not None and not least <= value < math.inf:
            raise UsageError(f"--{name.replace('_', '-')} is a number from {least}, not {value}")


def _one_of(known: Sequence[str], **given: str) -> None:
    for name, value in given.items():
        if value not in known:
            raise UsageError(f"--{name.replace('_', '-')} is {' or '.join(known)}, not {value!r}")


def _pairs(option: str, given: Sequence[str] | None) -> dict[str, str]:
    """`NAME=COLUMN`; for `--keep` also a column that keeps its name."""
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, column = text.partition("=")
        if not equals and option == "keep":
            column = name
        if not (name and column):
            raise UsageError(f"--{option} {text!r}: give NAME=COLUMN")
        if name in pairs:
            raise UsageError(f"--{option}: {name} is given twice")
        pairs[name] = column
    return pairs
