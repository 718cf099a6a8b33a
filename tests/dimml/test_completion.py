"""The completion of the command line, called as the shells call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimml.cli import COMMANDS

SHELLS = ("bash", "zsh", "fish")
HEAVY = {"numpy", "onnxruntime", "pyarrow", "torch", "yaml"}
PROGRAM = "import sys; sys.argv = ['dimml']; from dimml.cli import main; "


def complete(
    shell: str, line: str, program: str = PROGRAM + "main()"
) -> subprocess.CompletedProcess[str]:
    """Ask for completions of the last word of a line."""
    variables = {
        "_DIMML_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_name_of_a_command_is_completed(shell: str) -> None:
    done = complete(shell, "dimml tr")
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert "score" not in done.stdout
    # bash shows no help beside a name.
    assert (COMMANDS["train"].help in done.stdout) == (shell != "bash")


@pytest.mark.parametrize("shell", SHELLS)
def test_option_of_a_command_is_completed(shell: str) -> None:
    done = complete(shell, "dimml train products.yaml --re")
    assert "--resume" in done.stdout
    assert "--out" not in done.stdout


def test_all_commands_are_listed_without_importing_them() -> None:
    program = (
        PROGRAM + "import atexit; "
        f"atexit.register(lambda: print('HEAVY', sorted({HEAVY!r} & set(sys.modules)))); main()"
    )
    lines = complete("bash", "dimml ", program).stdout.splitlines()
    assert lines == [*COMMANDS, "HEAVY []"]


@pytest.mark.parametrize("name", ["compare", "export", "serve"])
def test_options_of_a_command_are_completed_without_torch(name: str) -> None:
    program = (
        PROGRAM + "import atexit; atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    *options, has_torch = complete("bash", f"dimml {name} --", program).stdout.splitlines()
    assert has_torch == "False"
    assert "--help" in options


@pytest.mark.parametrize("line", ["dimml train ", "dimml predict runs/"])
def test_paths_are_left_to_the_shell(line: str) -> None:
    # bash completes files where there is no other answer, by `complete -o default`.
    assert complete("bash", line).stdout.strip() == ""
    assert complete("zsh", line).stdout.strip() == "_files"


def test_command_without_its_extra_prints_nothing_into_the_prompt() -> None:
    program = "import sys; sys.modules['pydantic_settings'] = None; " + PROGRAM + "main()"
    done = complete("bash", "dimml serve --", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_script_for_bash_completes_in_bash(tmp_path: Path) -> None:
    command = tmp_path / "dimml"
    command.write_text(f"#!{sys.executable}\nfrom dimml.cli import main\nmain()\n")
    command.chmod(0o755)
    script = (
        'eval "$(_DIMML_COMPLETE=source_bash dimml)"; COMP_WORDS=(dimml ex); COMP_CWORD=1; '
        '_dimml_completion dimml; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "export", done.stderr


def test_help_of_a_command_does_not_repeat_the_options_of_completion() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dimml", "inspect", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "completion" not in done.stdout
