"""The commands `dimml predict` and `inspect`, which need a bundle alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimml.errors import UsageError, list_first
from dimml.samples import Prediction

if TYPE_CHECKING:
    from dimml.modalities import Kind

SHOWN_LABELS = 100
"""Labels that `inspect` lists; `inspect --json` has all."""


def predict(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="Folder of the bundle.")],
    providers: Annotated[
        str, typer.Option(envvar="DIMML_PROVIDERS", help="auto, cuda, tensorrt or cpu.")
    ] = "auto",
    on_unreadable: Annotated[
        str, typer.Option(help="error, or absent to predict from the other modalities.")
    ] = "error",
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the answer without each modality.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict one sample from any non-empty subset of a bundle's modalities.

    Each modality is an option named after it. The value is a file; for text, the text itself. An
    option of several frames, or of flow, is given once for each of its pictures, in order.

    Examples:
        dimml predict runs/digits/bundle --audio seven.wav --image seven.png --text sept

        dimml predict runs/digits/bundle --audio seven.wav --text sept --explain

        dimml predict runs/digits/bundle --text sept --json
    """
    from dimml.predictor import Predictor

    # Typer assigns the first unknown word to `bundle`, which may be an option of a modality.
    folder, sample = _bundle_and_sample([bundle, *context.args])
    predictor = Predictor.load(folder, providers)
    for name, values in sample.items():
        names = predictor.shared_columns.get(name, (name,))
        _check_values(name, values, [predictor.kinds[n] for n in names if n in predictor.kinds])
    prediction = predictor.predict(
        {name: values[0] if len(values) == 1 else values for name, values in sample.items()},
        on_unreadable=on_unreadable,  # type: ignore[arg-type]
        explain=explain,
    )
    if as_json:
        typer.echo(json.dumps(prediction.to_dict(), ensure_ascii=False))
        return
    _print_prediction(prediction)


def _check_values(name: str, values: Sequence[str], kinds: Sequence[Kind]) -> None:
    """Reject several values of an option whose modalities take one; warn of a path for a text."""
    from dimml.modalities import Text
    from dimml.progress import print_status

    if len(values) > 1 and kinds and all(kind.max_files == 1 for kind in kinds):
        raise UsageError(f"--{name} is given {len(values)} times, but it takes one value")
    if any(isinstance(kind, Text) for kind in kinds) and _is_file(values[0]):
        print_status(f"--{name}: {values[0]} is a file, but the text is its name, not its content")


def _print_prediction(prediction: Prediction) -> None:
    from dimml.details import DetailedPrediction

    typer.echo(f"{prediction.label}  {prediction.confidence:.1%}")
    for name, output in prediction.modalities.items():
        summary = (
            f"{output.label}  {output.confidence:.1%}  weight {output.weight:.2f}"
            if output.present
            else "absent"
        )
        typer.echo(f"  {name}: {'; '.join([summary, *output.warnings])}")
    if prediction.interaction:
        typer.echo(f"  together: {prediction.interaction:.0%} of the answer, in the weights above")
    if isinstance(prediction, DetailedPrediction) and prediction.without is not None:
        for name, answer in prediction.without.items():
            typer.echo(f"  without {name}: {answer.label}  {answer.confidence:.1%}")
        if not prediction.without:
            typer.echo("  nothing to leave out: the sample has one modality")


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Verify the files of a bundle and show what it holds.

    Examples:
        dimml inspect runs/digits/bundle
    """
    from dimml.bundle import Bundle

    loaded = Bundle.load(bundle)
    manifest = loaded.manifest
    if as_json:
        document = {"id": loaded.id, **manifest.model_dump(mode="json")}
        typer.echo(json.dumps(document, ensure_ascii=False))
        return
    typer.echo(f"{loaded.id}  created {manifest.created}  {manifest.precision}")
    typer.echo(f"labels: {list_first(manifest.labels, SHOWN_LABELS)}")
    for name, spec in manifest.modalities.items():
        size = manifest.files[spec.graph].bytes / 1e6
        typer.echo(f"{name}: {spec.kind}, encoder {spec.encoder}, {size:.1f} MB")
        typer.echo(f"  {json.dumps(spec.preprocessing)}")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _bundle_and_sample(words: list[str]) -> tuple[Path, dict[str, list[str]]]:
    """Parse one positional word, the bundle, and `--NAME VALUE` pairs before or after it.

    The predictor checks the names, because only the bundle knows its modalities.
    """
    positional: list[str] = []
    sample: dict[str, list[str]] = {}
    remaining = iter(words)
    for word in remaining:
        if not word.startswith("--"):
            positional.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        argument = value if equals else next(remaining, None)
        if argument is None:
            raise UsageError(f"--{name} needs a value")
        # Options are written with hyphens, and modality names have none.
        name = name.replace("-", "_")
        sample.setdefault(name, []).append(argument)
    if len(positional) != 1:
        raise UsageError(
            f"expected one bundle, got {', '.join(positional) or 'none'}: "
            "`dimml predict BUNDLE --NAME VALUE`"
        )
    return Path(positional[0]), sample
