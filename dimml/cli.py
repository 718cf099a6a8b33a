"""The `dimml` command: a table of commands, each imported when the user calls it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from inspect import getdoc
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from dimml import __version__
from dimml.errors import DimmlError, UsageError
from dimml.machine import SOURCE_ROOT
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
        "dimml.commands:predict",
        "Predict one sample.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    ),
    "score": Command("serving.offline.cli:score", "Predict every row of a table."),
    "serve": Command("serving.cli:serve", "Serve a bundle over HTTP.", "serve"),
    "package": Command("export.package:package", "Build a bento around a bundle.", "serve"),
    "push": Command("export.push:push", "Upload a bundle to the Hugging Face Hub.", "train"),
    "inspect": Command("dimml.commands:inspect", "Show what a bundle holds."),
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


def main() -> None:
    """Run the command line."""

    def run() -> None:
        import_from_source()
        app()

    exit_on_error(run)


def exit_on_error(run: Callable[[], object]) -> None:
    """Run a command and print expected errors as one line instead of a traceback."""
    try:
        run()
    # An OSError, such as a full disk or a read-only folder, is not a bug.
    except (DimmlError, OSError) as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(getattr(error, "exit_code", 1))
