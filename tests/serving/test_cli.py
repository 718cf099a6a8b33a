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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import serving.cli
from dimml.errors import BundleError, DimmlError, UsageError
from serving.cli import serve
from serving.settings import Settings
from tests.conftest import Dimml

StartPython = Callable[..., "subprocess.Popen[str]"]

SCRIPT = """
import typer
from serving.cli import serve

app = typer.Typer()
app.command()(serve)
app()
"""


pytestmark = pytest.mark.usefixtures("restored_environment")


@pytest.fixture
def script(tmp_path: Path) -> str:
    """Write the command as a script outside the current folder, where an installed one also is."""
    path = tmp_path / "bin" / "serve.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return str(path)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_setting_but_the_keys_is_a_flag() -> None:
    flags = set(inspect.signature(serve).parameters) - {"host", "port"}
    # Every user of a machine can read the command lines of its processes.
    assert flags == set(Settings.model_fields) - {"api_keys"}


def test_help_groups_the_flags() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "dimml", "serve", "--help"], capture_output=True, text=True
    )
    sections = re.findall(r"^(\w[\w ]*):$", result.stdout, re.MULTILINE)
    assert sections == ["Arguments", "Options", "Machine", "Caps", "Page", "Access and log"]


def test_serve_prints_example_commands_answers_and_stops_on_ctrl_c(
    tiny_bundle: Path, start_python: StartPython, script: str, free_port: int, tmp_path: Path
) -> None:
    # A folder named like the package must not be imported instead of the package.
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").touch()
    process = start_python(script, str(tiny_bundle), "--port", str(free_port), TMPDIR=str(tmp_path))
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    provider_lines = list(itertools.takewhile(lambda line: "Try:" not in line, lines))
    # On a machine without a GPU, these lines give the reason for the CPU.
    assert all(line.startswith("provider cpu: ") for line in provider_lines)
    commands = [shlex.split(process.stderr.readline()) for _ in range(2)]
    url = f"http://localhost:{free_port}/predict"
    assert [(command[0], command[-1]) for command in commands] == [("curl", url)] * 2
    names = [re.split("=", word)[0] for word in commands[0] if "=" in word]
    assert names == ["audio", "image", "text"]

    response = httpx.post(
        f"http://127.0.0.1:{free_port}/predict", data={"text": "seven"}, timeout=30
    )
    assert response.status_code == 200

    # Ctrl-C on a terminal reaches the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode in (0, 130)
    assert "Traceback" not in output + errors
    assert list(tmp_path.glob("dimml-serve-*")) == []


def test_sigterm_ends_the_command_before_the_service_starts(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive_sigterm() -> None:
        handler: Any = signal.getsignal(signal.SIGTERM)
        handler(signal.SIGTERM, None)

    monkeypatch.setattr(serving.cli, "_check", receive_sigterm)
    # Without a handler, process 1 of a container would ignore the signal.
    with pytest.raises(KeyboardInterrupt):
        serve(tiny_bundle)


def test_port_in_use_is_rejected(tiny_bundle: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(DimmlError, match="choose another with --port") as error:
            serve(tiny_bundle, port=listener.getsockname()[1])
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "0"), ("--port", "x"), ("--workers", "two")]
)
def test_invalid_option_exits_with_usage_error(
    tiny_bundle: Path, dimml: Dimml, option: str, value: str
) -> None:
    code, _, errors = dimml("serve", tiny_bundle, option, value)
    assert code == 2
    assert option in errors


def test_folder_without_a_bundle_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle") as error:
        serve(tmp_path)
    assert error.value.exit_code == 2


def test_unknown_host_or_provider_is_rejected(tiny_bundle: Path, free_port: int) -> None:
    with pytest.raises(UsageError, match="give an IP address"):
        serve(tiny_bundle, host="no.such.host.invalid", port=free_port)
    with pytest.raises(UsageError, match="DIMML_PROVIDERS='tpu' is not valid"):
        serve(tiny_bundle, port=free_port, providers="tpu")
