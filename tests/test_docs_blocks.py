"""The blocks of the documentation, held against the program without being run.

Every command is parsed by the command line itself, with the options and arguments of the code as it
is; every Python block is compiled, and every recipe is validated. Whether the commands also work is
tested in `tests/test_docs_run.py`.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml

from dimml.cli import COMMANDS, app, build
from dimml.commands import _bundle_and_sample
from tests.doc_blocks import PAGES, ROOT, Block, all_blocks, blocks_of, commands_of, inline_commands
from train.recipe import ModalityConfig, Recipe

LANGUAGES = {"sh", "python", "yaml", "json", "text", "js", "html"}
"""Blocks of any other language would be held against nothing.

`tests/serving/test_clients.py` runs those for JavaScript and browsers.
"""
PROGRAMS = {"cd", "grep", "head", "printf", "source"}
"""Programs of the system, whose arguments are not checked."""
OPERATORS_PROGRAMS = {"docker", "kubectl", "hf"}
"""Programs that need a daemon, a cluster or a hub, whose arguments are not checked either.

`tests/test_deployment_files.py` checks the files that they read.
"""
HTTP_PATHS = {"/predict", "/bundle", "/metrics", "/livez", "/readyz", "/healthz"}
MAKE_TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = re.compile(r"\.\[([\w,]+)\]")
MINIMAL_RECIPE = {"name": "name", "data": "table.csv", "modalities": {"note": "text"}}


def options_of(name: str) -> set[str]:
    """Return the options of a command, with their hyphens."""
    command = build(name)
    with command.make_context(name, [], resilient_parsing=True) as context:
        return {option for parameter in command.get_params(context) for option in parameter.opts}


def parse_dimml(arguments: list[str]) -> None:
    """Parse a command line of `dimml` as the program does, without running it."""
    name, *rest = arguments
    if name.startswith("-"):
        root = typer.main.get_command(app)
        assert name in {option for parameter in root.params for option in parameter.opts}
        return
    assert name in COMMANDS, f"dimml has no command {name}"
    with build(name).make_context(name, rest) as context:
        if name == "predict":
            _bundle_and_sample([context.params["bundle"], *context.args])


def check_python(arguments: list[str]) -> None:
    match arguments:
        case ["-m", module, *_]:
            file = ROOT.joinpath(*module.split("."))
            assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), module
        case ["-c", code]:
            compile(code, "-c", "exec")
        case [script, *_]:
            assert any(block.title == script for block in all_blocks("python")), script


def check_command(words: list[str]) -> None:
    """Fail if a command of the documentation cannot be one that works."""
    match Path(words[0]).name, words[1:]:
        case "dimml", arguments:
            parse_dimml(arguments)
        case "make", arguments:
            assert {word for word in arguments if "=" not in word} <= MAKE_TARGETS
        case (("python" | "python3"), arguments):
            check_python(arguments)
        case "pip", ["install", "-e", place]:
            extras = EXTRAS.fullmatch(place)
            assert extras
            declared = (ROOT / "pyproject.toml").read_text()
            for extra in extras[1].split(","):
                assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra
        case "curl", arguments:
            urls = [urlsplit(word) for word in arguments if word.startswith("http")]
            assert urls
            assert {(url.hostname, url.path) for url in urls} <= {
                ("localhost", path) for path in HTTP_PATHS
            }
        case (("pytest" | "ruff" | "mypy"), arguments):
            paths = [word for word in arguments if "/" in word]
            assert all((ROOT / path).exists() for path in paths)
        case program, _:
            known = PROGRAMS | OPERATORS_PROGRAMS
            assert program in known, f"{program} is not a program that the documentation uses"


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_block_has_a_language_that_is_checked(block: Block) -> None:
    assert block.language in LANGUAGES


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_commands_of_a_block_are_accepted(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIMML_PROVIDERS", raising=False)
    commands = list(commands_of(block.text))
    assert commands
    for words in commands:
        check_command(words)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dimml trian products.yaml", "no command trian"),
        ("dimml train", "recipe"),
        ("dimml train products.yaml --epochs 5", "--epochs"),
        ("dimml score bundle table.csv out --workers many", "a valid integer"),
        ("dimml predict bundle --photo", "--photo needs a value"),
        ("make dinner", "dinner"),
        ("python -m benchmarks.nothing", "benchmarks.nothing"),
        ("pip install -e '.[nothing]'", "nothing"),
        ("curl http://localhost:3000/nothing", "/nothing"),
        ("unknown-program", "unknown-program is not a program"),
    ],
)
def test_wrong_command_is_found(line: str, problem: str) -> None:
    (words,) = commands_of(line)
    # Errors of Typer, `UsageError` and failed assertions have only this base in common.
    with pytest.raises(Exception) as raised:  # noqa: PT011
        check_command(words)
    # Typer keeps the name of a missing argument out of the text of the exception.
    parameter = getattr(raised.value, "param", None)
    assert problem in f"{raised.value} {parameter.name if parameter else ''}"


def test_shell_is_split_into_commands() -> None:
    shell = "A=1 dimml data x \\\n  y > out # why\nhead -n 2 'a b' |\n  grep c && dimml check z\n"
    assert list(commands_of(shell)) == [
        ["dimml", "data", "x", "y"],
        ["head", "-n", "2", "a b"],
        ["grep", "c"],
        ["dimml", "check", "z"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_in_the_text_exist(page: Path) -> None:
    for text in inline_commands(page):
        name, *words = shlex.split(text.replace("…", ""))[1:]
        options = {word.partition("=")[0] for word in [name, *words] if word.startswith("--")}
        if name in COMMANDS:
            known = options_of(name) if name != "predict" else options
        else:
            known = {o for p in typer.main.get_command(app).params for o in p.opts}
            assert name.startswith("--"), text
        assert options <= known, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_output_and_indented_blocks_hold_no_commands(page: Path) -> None:
    # Such a command would escape the tests of this file.
    output = [block.text for block in blocks_of(page) if block.language == "text"]
    indented = re.findall(r"(?<=\n\n)((?: {4}.*\n)+)", page.read_text())
    for text in [*output, *indented]:
        assert not re.search(r"^\s*(\$ |dimml |make |pip )", text, re.MULTILINE), text


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", all_blocks("json"), ids=str)
def test_json_block_parses(block: Block) -> None:
    is_member = not block.text.lstrip().startswith("{")
    json.loads("{" + block.text + "}" if is_member else block.text)


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_yaml_block_is_a_recipe_a_part_of_one_or_alerts(block: Block) -> None:
    document: Any = yaml.safe_load(block.text)
    if isinstance(document, list):
        assert all(rule.keys() <= {"alert", "expr", "for"} for rule in document)
    elif document.keys() <= Recipe.model_fields.keys():
        Recipe.model_validate({**MINIMAL_RECIPE, **document})
    else:
        # A part of `modalities`.
        for modality in document.values():
            ModalityConfig.model_validate(modality)
