"""The `dimml` command: a table of commands, each imported when the user calls it."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from dimml import __version__
from dimml.errors import DimmlError, UsageError
from dimml.machine import SOURCE_ROOT
from dimml.samples import Prediction
from dimml.startup import import_from_source


@dataclass(frozen=True)
class Command:
    """A command: its "module:function", its help line, the extra it needs, and Typer settings."""

    target: str
    help: str
    extra: str | None = None
    context_settings: dict[str, Any] | None = None


COMMANDS: dict[str, Command] = {
    "data": Command("train.cli:data", "Write a demonstration data set.", "train"),
    "init": Command("train.cli:init", "Write a recipe for a table.", "train"),
    "check": Command("train.cli:check", "Read the data of a recipe and report.", "train"),
    "train": Command("train.cli:train", "Train a recipe.", "train"),
    "compare": Command("train.cli:compare", "Compare training methods.", "train"),
    "export": Command("export.bundle:export", "Turn a training run into a bundle.", "train"),
    "evaluate": Command("train.cli:evaluate", "Measure a bundle on a table.", "train"),
    "predict": Command(
        "dimml.cli:predict",
        "Predict one sample.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    ),
    "score": Command("serving.offline.cli:score", "Predict every row of a table."),
    "serve": Command("serving.cli:serve", "Serve a bundle over HTTP.", "serve"),
    "package": Command("export.package:package", "Build a bento around a bundle.", "serve"),
    "push": Command("export.push:push", "Upload a bundle to the Hugging Face Hub.", "train"),
    "inspect": Command("dimml.cli:inspect", "Show what a bundle holds."),
}


class LazyGroup(TyperGroup):
    """A group that lists its commands, and completes their names, without importing them."""

    _completes_names = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        if self._completes_names:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)
        # A completion without the extra of a command is empty: an error would spoil the prompt.
        with suppress(UsageError) if ctx.resilient_parsing else nullcontext():
            return build(cmd_name)
        return None

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        self._completes_names = True
        return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer exits with the same code but prints nothing.
            sys.stderr.write("Stopped.\n")
            raise typer.Exit(130) from None
        except ModuleNotFoundError as error:
            # Commands import most packages when they run.
            raise _missing_package(ctx.invoked_subcommand, error) from error


class GroupedCommand(TyperCommand):
    """A command whose help lists options by panel, and options without a panel as "Options"."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or default
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def build(name: str) -> Any:
    """Import the command with this name.

    Raises:
        UsageError: If a package that the command needs is not installed.
    """
    command = COMMANDS[name]
    module, function = command.target.split(":")
    if not (SOURCE_ROOT / module.split(".")[0]).is_dir():
        raise UsageError(
            f"`dimml {name}` needs a checkout of dimml, because the wheel holds only the library; "
            "see the README"
        )
    try:
        target = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise _missing_package(name, error) from error
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    settings, text = command.context_settings, _help(target)
    single.command(name, cls=GroupedCommand, context_settings=settings, help=text)(target)
    return typer.main.get_command(single)


def _missing_package(name: str, error: ModuleNotFoundError) -> UsageError:
    """Return the error for a command that needs a package which is not installed."""
    extra = f"'.[{extra}]'" if (extra := COMMANDS[name].extra) else "."
    return UsageError(
        f"`dimml {name}` needs {error.name}, which is not installed: from a checkout run "
        f"`pip install -e {extra}`"
    )


def _help(function: Any) -> str:
    r"""Return a docstring with a `\b` before its examples, which stops Click from joining lines."""
    text, heading, examples = (getdoc(function) or "").partition("Examples:\n")
    return text + ("\b\n" + heading + examples.replace("\n\n", "\n") if heading else "")


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Multimodal classifiers that keep working when a modality is missing.

    Examples:
        dimml predict runs/digits/bundle --audio seven.wav --text sept

        dimml serve runs/digits/bundle --port 3000
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.callback(invoke_without_command=True, help=_help(_root))(_root)


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

    Each modality is an option named after it. The value is a file; for text, the text itself.

    Examples:
        dimml predict runs/digits/bundle --audio seven.wav --image seven.png --text sept

        dimml predict runs/digits/bundle --audio seven.wav --text sept --explain

        dimml predict runs/digits/bundle --text sept --json
    """
    from dimml.modalities import Text
    from dimml.predictor import Predictor
    from dimml.progress import print_status

    # Typer assigns the first unknown word to `bundle`, which may be an option of a modality.
    folder, sample = _bundle_and_sample([bundle, *context.args])
    predictor = Predictor.load(folder, providers)
    for name, value in sample.items():
        if name in predictor.kinds and isinstance(predictor.kinds[name], Text) and _is_file(value):
            print_status(f"--{name}: {value} is a file, but the text is its name, not its content")
    prediction = predictor.predict(
        sample,
        on_unreadable=on_unreadable,  # type: ignore[arg-type]
        explain=explain,
    )
    if as_json:
        typer.echo(json.dumps(prediction.to_dict(), ensure_ascii=False))
        return
    _print_prediction(prediction)


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
    typer.echo(f"labels: {', '.join(manifest.labels)}")
    for name, spec in manifest.modalities.items():
        size = manifest.files[spec.graph].bytes / 1e6
        typer.echo(f"{name}: {spec.kind}, encoder {spec.encoder}, {size:.1f} MB")
        typer.echo(f"  {json.dumps(spec.preprocessing)}")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _bundle_and_sample(words: list[str]) -> tuple[Path, dict[str, str]]:
    """Parse one positional word, the bundle, and `--NAME VALUE` pairs before or after it.

    The predictor checks the names, because only the bundle knows its modalities.
    """
    positional: list[str] = []
    sample: dict[str, str] = {}
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
        if name in sample:
            raise UsageError(f"--{name} is given twice")
        sample[name] = argument
    if len(positional) != 1:
        raise UsageError(
            f"expected one bundle, got {', '.join(positional) or 'none'}: "
            "`dimml predict BUNDLE --NAME VALUE`"
        )
    return Path(positional[0]), sample


def main() -> None:
    """Run the command line and print expected errors as one line instead of a traceback."""
    try:
        import_from_source()
        app()
    # An OSError, such as a full disk or a read-only folder, is not a bug.
    except (DimmlError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(getattr(error, "exit_code", 1))
