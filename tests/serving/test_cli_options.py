"""The options of `dimml serve` that are generated from the settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import serving.cli
from dimml.cli import build
from dimml.errors import UsageError
from serving.settings import load_settings

pytestmark = pytest.mark.usefixtures("restored_environment")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run `dimml serve` up to its checks, which would load the bundle."""
    for name in [name for name in os.environ if name.startswith("DIMML_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(serving.cli, "_check", lambda: sys.exit(0))
    with pytest.raises(SystemExit) as stopped:
        build("serve").main(list(arguments))
    assert stopped.value.code == 0


def test_options_set_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    numbers = ["--max-pixels", "5", "--max-seconds", "2.5", "--workers", "3"]
    run(monkeypatch, "some/bundle", "--tf32", "--no-request-log", *numbers, "--providers", "cpu")
    settings = load_settings()
    assert settings.bundle == tmp_path / "some/bundle"
    assert (settings.tf32, settings.request_log, settings.cuda_graphs) == (True, False, False)
    assert (settings.max_pixels, settings.max_seconds, settings.workers) == (5, 2.5, 3)
    assert settings.providers == "cpu"


def test_options_that_are_not_given_leave_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "bundle")
    assert {name for name in os.environ if name.startswith("DIMML_")} == {"DIMML_BUNDLE"}


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "bundle", "--api-keys-file", "keys.txt")
    assert os.environ["DIMML_API_KEYS_FILE"] == str(tmp_path / "keys.txt")


def test_value_out_of_range_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "bundle", "--workers", "0", "--rate-limit", "0")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert "DIMML_WORKERS='0' is not valid; accepted: processes, 1 to 256" in caught.value.message
    assert "more than 0 and up to 1000000" in caught.value.message


def test_list_of_commands_loads_no_settings() -> None:
    code = """
import sys, dimml.cli
try:
    dimml.cli.main()
finally:
    print(sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    modules = done.stdout.splitlines()[-1]
    assert "'typer'" in modules
    assert "pydantic" not in modules
