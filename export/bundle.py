"""`dimml export`: turn a training run into a bundle."""

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
        str,
        typer.Option(help="Precision of the encoders: fp32, fp16 (for GPUs) or int8 (for CPUs)."),
    ] = "fp32",
) -> None:
    """Turn a run into a bundle, after checking that PyTorch and ONNX agree on real samples.

    An fp16 or int8 bundle is refused if a subset of the modalities loses more than half a point of
    validation accuracy. The ranges of int8 come from training samples.

    Examples:
        dimml export runs/digits/run runs/digits/bundle

        dimml export runs/digits/run runs/digits/int8 --precision int8
    """
    report = export_run(run, bundle, precision)
    if report:
        from export.precision import report_text

        typer.echo(report_text(report, precision))
    typer.echo(bundle)


def export_run(run: Path, bundle: Path, precision: str = "fp32") -> dict[str, Any] | None:
    """Write the bundle of a run, whole or not at all.

    Returns:
        The comparison with fp32, see `export.precision.convert_bundle`; None for an fp32 bundle.

    Raises:
        ParityError: If PyTorch and ONNX differ; nothing is written.
        PrecisionError: If the bundle would lose too much accuracy; nothing is written.
        UsageError: If there is no such precision or no such run, or its method has no bundle.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    from train.run import load_run

    loaded = load_run(run)
    if not loaded.method.exports:
        raise UsageError(
            f"the run in {run} was trained with the method {loaded.recipe.method} "
            f"({loaded.recipe.options or 'its defaults'}), which is for comparisons and has no "
            "bundle; train with `method: dimml` without `fusion_head`, or with `method: ume`"
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
        # A table may be sorted by label, and calibration uses the first rows.
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
        check=parity_check(loaded.model, loaded.kinds, _parity_samples(loaded)),
    )


def _parity_samples(run: Any) -> dict[str, list[Any]]:
    """Return preprocessed validation samples of each modality, or its kind's example."""
    from dimml.errors import InputError
    from dimml.samples import is_absent
    from train.data.splits import read_split

    kinds = {name: spec.kind for name, spec in run.specs.items()}
    samples: dict[str, list[Any]] = {name: [] for name in kinds}
    for row in read_split(run.recipe.data, kinds, "validation"):
        for name, kind in run.kinds.items():
            if len(samples[name]) < PARITY_SAMPLES and not is_absent(row.sample[name]):
                try:
                    samples[name].append(kind.preprocess(kind.decode(row.sample[name])))
                except InputError:
                    continue
        if all(len(items) == PARITY_SAMPLES for items in samples.values()):
            break
    for name, kind in run.kinds.items():
        samples[name] = samples[name] or [kind.preprocess(kind.decode(kind.example()))]
    return samples
