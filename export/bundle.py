"""`dimml export`: a training run to a bundle."""

from __future__ import annotations

import tempfile
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

from dimml.errors import UsageError

PARITY_SAMPLES = 33
PRECISIONS = ("fp32", "fp16", "int8")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
    precision: Annotated[
        str, typer.Option(help="Of the encoders: fp32, fp16 (for GPUs) or int8 (for CPUs).")
    ] = "fp32",
) -> None:
    """Turn a run into a bundle, once PyTorch and ONNX agree on real samples.

    In fp16 and int8 the bundle is refused where a subset of the modalities loses more than half a
    point of validation accuracy; int8 sets its ranges on training samples.

    Examples:
        dimml export runs/digits/run runs/digits/bundle

        dimml export runs/digits/run runs/digits/int8 --precision int8
    """
    report = export_run(run, bundle, precision)
    if report:
        from export.precision import table

        typer.echo(table(report, precision))
    typer.echo(bundle)


def export_run(run: Path, bundle: Path, precision: str = "fp32") -> dict[str, Any] | None:
    """Writes the bundle of a run, whole or not at all.

    Returns:
        Except for fp32 the comparison with it, see `export.precision.convert_bundle`.

    Raises:
        ParityError: PyTorch and ONNX differ; nothing was written.
        PrecisionError: it would lose too much accuracy; nothing was written.
        UsageError: there is no such precision, or no such run.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    from train.run import load_run

    loaded = load_run(run)
    if not loaded.method.exports:
        raise UsageError(
            f"the run in {run} was trained with the method {loaded.recipe.method} "
            f"({loaded.recipe.options or 'its defaults'}), which is there to compare with and has "
            "no bundle; train with `method: dimml` without `fusion_head`, or with `method: ume`"
        )
    if precision == "fp32":
        _write_fp32(loaded, bundle)
        return None
    return _write_converted(loaded, bundle, precision)


def _write_converted(run: Any, path: Path, precision: str) -> dict[str, Any]:
    import numpy as np

    from dimml.bundle import new_bundle
    from export.precision import convert_bundle
    from train.data.splits import read_split

    kinds = {name: spec.kind for name, spec in run.specs.items()}
    with new_bundle(path) as folder, tempfile.TemporaryDirectory(prefix="dimml-fp32-") as scratch:
        source = Path(scratch) / "bundle"
        _write_fp32(run, source)
        calibration = read_split(run.recipe.data, kinds, "train")
        # A table may list its labels in turn.
        order = np.random.default_rng(run.recipe.seed).permutation(len(calibration))
        validation = read_split(run.recipe.data, kinds, "validation")
        rows = [calibration[row] for row in order]
        return convert_bundle(source, folder, precision, rows, validation)


def _write_fp32(loaded: Any, bundle: Path) -> None:
    from datetime import datetime

    from export.onnx import write_bundle
    from export.parity import parity_check

    provenance = {
        key: loaded.document[key] for key in ("seed", "data", "best", "versions", "python")
    }
    write_bundle(
        bundle,
        loaded.model,
        loaded.kinds,
        loaded.specs,
        loaded.assets,
        name=loaded.recipe.name,
        labels=loaded.labels,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance={**provenance, "recipe": loaded.recipe.model_dump(mode="json")},
        conformal=loaded.conformal,
        check=parity_check(loaded.model, loaded.kinds, _samples(loaded)),
    )


def _samples(run: Any) -> dict[str, list[Any]]:
    """Real validation samples of each modality; the kind's example where there is none."""
    from dimml.errors import InputError
    from dimml.samples import is_absent
    from train.data.splits import read_split

    kinds = {name: spec.kind for name, spec in run.specs.items()}
    found: dict[str, list[Any]] = {name: [] for name in kinds}
    for row in read_split(run.recipe.data, kinds, "validation"):
        for name, kind in run.kinds.items():
            if len(found[name]) < PARITY_SAMPLES and not is_absent(row.sample[name]):
                try:
                    found[name].append(kind.preprocess(kind.decode(row.sample[name])))
                except InputError:
                    continue
        if all(len(items) == PARITY_SAMPLES for items in found.values()):
            break
    for name, kind in run.kinds.items():
        found[name] = found[name] or [kind.preprocess(kind.decode(kind.example()))]
    return found
