"""`dimml export`: turn a training run into a bundle."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dimml.bundle import new_bundle
from dimml.errors import UsageError
from dimml.progress import print_status
from dimml.table import Row
from export.samples import readable_samples

if TYPE_CHECKING:
    from train.run import Run

PRECISIONS = ("fp32", "fp16", "int8")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
    precision: Annotated[
        str,
        typer.Option(help="Precision of the encoders: fp32, fp16 (for GPUs) or int8 (for CPUs)."),
    ] = "fp32",
    examples: Annotated[
        int,
        typer.Option(min=0, max=50, help="Rows of the test split to copy, for the web page."),
    ] = 0,
) -> None:
    """Turn a run into a bundle, after a check that PyTorch and ONNX agree on real samples.

    An fp16 or int8 bundle is rejected if a subset of the modalities loses more than half a point of
    validation accuracy. Training samples set the ranges of int8.

    Examples:
        dimml export runs/digits/run runs/digits/bundle --examples 6

        dimml export runs/digits/run runs/digits/int8 --precision int8
    """
    report = export_run(run, bundle, precision, examples)
    if report:
        from export.precision import report_text

        typer.echo(report_text(report, precision))
    typer.echo(bundle)


def export_run(
    run: Path, bundle: Path, precision: str = "fp32", examples: int = 0
) -> dict[str, Any] | None:
    """Write the bundle of a run; write nothing on an error.

    Args:
        run: Folder of a finished run.
        bundle: Folder to write.
        precision: "fp32", "fp16" or "int8".
        examples: Number of rows of the test split to copy into the bundle.

    Returns:
        The comparison with fp32, see `export.precision.convert_bundle`; None for an fp32 bundle.

    Raises:
        ParityError: If PyTorch and ONNX differ.
        PrecisionError: If the bundle loses too much accuracy.
        UsageError: If the precision or the run does not exist, or the method has no bundle.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose one of: {', '.join(PRECISIONS)}")
    from train.run import load_run

    loaded = load_run(run)
    if not loaded.method.exports:
        raise UsageError(
            f"the run in {run} was trained with the method {loaded.recipe.method} "
            f"(options: {loaded.recipe.options or 'defaults'}), which has no bundle; train with "
            "`method: dimml` or `method: ume`"
        )
    validation = _read_split(loaded, "validation")
    if precision == "fp32":
        _write_fp32(loaded, bundle, validation, examples)
        return None
    return _write_converted(loaded, bundle, precision, validation, examples)


def _write_converted(
    run: Run, path: Path, precision: str, validation: list[Row], examples: int
) -> dict[str, Any]:
    import numpy as np

    from export.precision import convert_bundle

    training = _read_split(run, "train")
    # Calibration uses the first rows, and a table may be sorted by label.
    order = np.random.default_rng(run.recipe.seed).permutation(len(training))
    with new_bundle(path) as folder, tempfile.TemporaryDirectory(prefix="dimml-fp32-") as scratch:
        source = Path(scratch) / "bundle"
        _write_fp32(run, source, validation, examples)
        calibration = [training[row] for row in order]
        return convert_bundle(source, folder, precision, calibration, validation)


def _write_fp32(run: Run, bundle: Path, validation: list[Row], examples: int) -> None:
    from export.examples import choose_examples
    from export.onnx import write_bundle
    from export.parity import BATCH_SIZES, parity_check

    # A modality that no validation row has is checked on the example of its kind.
    samples = {
        name: list(islice(readable_samples(kind, validation), max(BATCH_SIZES)))
        or [kind.preprocess(kind.decode(kind.example()))]
        for name, kind in run.kinds.items()
    }
    chosen, files = choose_examples(
        run.kinds, _read_split(run, "test") if examples else [], examples
    )
    if len(chosen) < examples:
        print_status(
            f"{len(chosen)} of {examples} examples: in the other rows of the test split, a value "
            "cannot be read or takes over 2 MB"
        )
    keys = ("seed", "data", "best", "fusion", "versions", "python")
    provenance = {key: run.document[key] for key in keys if key in run.document}
    write_bundle(
        bundle,
        run.model,
        run.kinds,
        run.specs,
        run.assets,
        name=run.recipe.name,
        labels=run.labels,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance={**provenance, "recipe": run.recipe.model_dump(mode="json")},
        conformal=run.conformal,
        table=run.recipe.source.layout,
        examples=chosen,
        files=files,
        check=parity_check(run.model, run.kinds, samples),
    )


def _read_split(run: Run, split: str) -> list[Row]:
    from train.data.splits import read_split

    return read_split(run.recipe.source, split)
