from __future__ import annotations

import inspect
import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dimml.errors import BundleError, DimmlError, UsageError
from serving.cli import serve
from serving.settings import Settings

Start = Callable[..., "subprocess.Popen[str]"]

PROGRAM = """
import typer
from serving.cli import serve

app = typer.Typer()
app.command()(serve)
app()
"""


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """`serve` sets variables, for its workers."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def program(tmp_path: Path) -> str:
    """The command as a script, which like an installed one is not in the current folder."""
    path = tmp_path / "bin" / "program.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return str(path)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_setting_is_a_flag() -> None:
    flags = set(inspect.signature(serve).parameters) - {"host", "port"}
    # A key on the command line would be seen by everybody on the machine.
    assert flags == set(Settings.model_fields) - {"api_keys"}


def test_help_groups_the_flags() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dimml", "serve", "--help"], capture_output=True, text=True
    )
    sections = re.findall(r"^(\w[\w ]*):$", done.stdout, re.MULTILINE)
    assert sections == ["Arguments", "Options", "Machine", "Caps", "Access and log"]


def test_it_announces_itself_answers_and_stops_on_ctrl_c(
    tiny_bundle: Path, start_python: Start, program: str, port: int, tmp_path: Path
) -> None:
    # A folder of the same name as the package must not be taken for it.
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").touch()
    process = start_python(program, str(tiny_bundle), "--port", str(port), TMPDIR=str(tmp_path))
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    said = list(itertools.takewhile(lambda line: "Try:" not in line, lines))
    # Without a GPU, why the CPU serves.
    assert all(line.startswith("provider cpu: ") for line in said)
    commands = [shlex.split(process.stderr.readline()) for _ in range(2)]
    url = f"http://localhost:{port}/predict"
    assert [(command[0], command[-1]) for command in commands] == [("curl", url)] * 2
    names = [re.split("=", word)[0] for word in commands[0] if "=" in word]
    assert names == ["audio", "image", "text"]

    answer = httpx.post(f"http://127.0.0.1:{port}/predict", data={"text": "seven"}, timeout=30)
    assert answer.status_code == 200

    # Ctrl-C on a terminal reaches the whole group.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    assert "Traceback" not in output + errors
    assert list(tmp_path.glob("dimml-serve-*")) == []


def test_a_port_in_use_is_refused_before_anything_starts(tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DimmlError, match="choose another with --port") as caught:
            serve(tiny_bundle, port=taken.getsockname()[1])
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "0"), ("--port", "x"), ("--workers", "two")]
)
def test_an_option_out_of_range_is_bad_usage(
    tiny_bundle: Path, start_python: Start, program: str, option: str, value: str
) -> None:
    process = start_python(program, str(tiny_bundle), option, value)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert option in errors


def test_an_unsound_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle") as caught:
        serve(tmp_path)
    assert caught.value.exit_code == 2


def test_an_unknown_host_or_provider_is_refused(tiny_bundle: Path, port: int) -> None:
    with pytest.raises(UsageError, match="give an IP address"):
        serve(tiny_bundle, host="no.such.host.invalid", port=port)
    with pytest.raises(UsageError, match="DIMML_PROVIDERS='tpu' is not valid"):
        serve(tiny_bundle, port=port, providers="tpu")
