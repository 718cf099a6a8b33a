"""The `dimml` command: a table of commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from dimml import __version__
from dimml.errors import DimmlError, UsageError


@dataclass(frozen=True)
class Command:
    """Where a command's function is, what it does, and what to install for it."""

    target: str
    help: str
    extra: str | None = None
    context_settings: dict[str, Any] | None = None


COMMANDS: dict[str, Command] = {
    "data": Command("train.cli:data", "Write a demonstration data set.", "train"),
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
    "inspect": Command("dimml.cli:inspect", "Show what a bundle holds."),
}


class LazyGroup(TyperGroup):
    """Lists the table without importing it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return build(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer would exit with this code without a word.
            sys.stderr.write("Stopped.\n")
            raise typer.Exit(130) from None


class GroupedCommand(TyperCommand):
    """Lists its options under the panel that each names, the others under "Options"."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                default = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or default
                groups.setdefault(title, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def build(name: str) -> Any:
    """The command of this name, imported.

    Raises:
        UsageError: what it needs is not installed.
    """
    command = COMMANDS[name]
    module, function = command.target.split(":")
    try:
        target = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise UsageError(f"`dimml {name}` needs {_missing(command, str(error.name))}") from error
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    register = single.command(
        name=name,
        cls=GroupedCommand,
        context_settings=command.context_settings,
        help=_help(target),
    )
    register(target)
    return typer.main.get_command(single)


def _missing(command: Command, module: str) -> str:
    if module.split(".")[0] == command.target.split(".")[0]:
        return "a checkout of dimml: the wheel holds the library alone; see its README"
    extra = f"'.[{command.extra}]'" if command.extra else "."
    return f"{module}, which is not installed: from a checkout run `pip install -e {extra}`"


def _help(function: Any) -> str:
    """A docstring whose examples keep their lines: click fills paragraphs without this mark."""
    text, mark, examples = (getdoc(function) or "").partition("Examples:\n")
    return text + ("\b\n" + mark + examples.replace("\n\n", "\n") if mark else "")


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
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
        str, typer.Option(help="error, or absent: let the other modalities answer.")
    ] = "error",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Predict one sample from any non-empty subset of a bundle's modalities.

    Each modality is an option of its own name: a file, or the text itself.

    Examples:
        dimml predict runs/digits/bundle --audio seven.wav --image seven.png --text sept

        dimml predict runs/digits/bundle --text sept --json
    """
    from dimml.predictor import Predictor

    # What Typer takes for the bundle is the first word that it does not know.
    folder, sample = _bundle_and_sample([bundle, *context.args])
    predictor = Predictor.load(folder, providers)
    prediction = predictor.predict(sample, on_unreadable=on_unreadable)  # type: ignore[arg-type]
    if as_json:
        typer.echo(json.dumps(prediction.to_dict(), ensure_ascii=False))
        return
    typer.echo(f"{prediction.label}  {prediction.confidence:.1%}")
    for name, output in prediction.modalities.items():
        said = (
            f"{output.label}  {output.confidence:.1%}  weight {output.weight:.2f}"
            if output.present
            else "absent"
        )
        typer.echo(f"  {name}: {'; '.join([said, *output.warnings])}")


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    as_json: Annotated[bool, typer.Option("--json", help="The manifest.")] = False,
) -> None:
    """Show what a bundle holds, after checking its files.

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


def _bundle_and_sample(words: list[str]) -> tuple[Path, dict[str, str]]:
    """The one word that stands alone, and `--NAME VALUE` pairs on either side of it.

    Whether there is a modality of a name is for the predictor to say.
    """
    alone: list[str] = []
    sample: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            alone.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        found = value if equals else next(rest, None)
        if found is None:
            raise UsageError(f"--{name} needs a value")
        if name in sample:
            raise UsageError(f"--{name} is given twice")
        sample[name] = found
    if not alone:
        raise UsageError("name the bundle: `dimml predict BUNDLE --NAME VALUE`")
    if len(alone) > 1:
        raise UsageError(
            f"unexpected {alone[1]!r} beside the bundle {alone[0]!r}; give each modality as "
            "--NAME VALUE"
        )
    return Path(alone[0]), sample


def main() -> None:
    """Runs a command; an error on purpose is one line and its exit code, never a traceback."""
    try:
        app()
    # An OSError is a full disk or a folder that may not be written: nobody's bug.
    except (DimmlError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(getattr(error, "exit_code", 1))
