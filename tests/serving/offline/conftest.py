from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dimml.machine import SOURCE_ROOT


@pytest.fixture
def command(tiny_bundle: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start `dimml score` with the tiny bundle, and kill it after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, bundle: Path = tiny_bundle) -> subprocess.Popen[str]:
        words = [str(word) for word in (bundle, *arguments)]
        process = subprocess.Popen(
            [sys.executable, "-m", "dimml", "score", *words, "--providers", "cpu"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
