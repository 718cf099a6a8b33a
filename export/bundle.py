"""`dimml export`: a training run to a bundle."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer

PARITY_SAMPLES = 33


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    bundle: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Turn a run into a bundle, once PyTorch and ONNX agree on real samples.

    Examples:
        dimml export runs/digits/run runs/digits/bundle
    """
    export_run(run, bundle)
    typer.echo(bundle)


def export_run(run: Path, bundle: Path) -> None:
    """Writes the bundle of a run.

    Raises:
        ParityError: PyTorch and ONNX differ; nothing was written.
    """
    from datetime import datetime

    from export.onnx import write_bundle
    from export.parity import parity_check
    from train.run import load_run

    loaded = load_run(run)
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
    from train.data import read_split

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
