"""The commands that `make --dry-run` prints in a new clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVE_EXTRAS = "train serve ui demo"
ALL_EXTRAS = f"{SERVE_EXTRAS} ray remote media dev"


def add_installation(clone: Path) -> None:
    """Write the files by which `make` knows that everything is installed."""
    (clone / ".venv/bin").mkdir(parents=True)
    for name in ("bin/python", ".installed", ".installed-serve"):
        (clone / ".venv" / name).touch()


class TestMake:
    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        for name in ("Makefile", "pyproject.toml", "constraints.txt", "install.py"):
            shutil.copy(ROOT / name, tmp_path)
        return tmp_path

    def printed(self, clone: Path, *arguments: str) -> list[str]:
        command = ["make", "--dry-run", "--no-print-directory", *arguments]
        # `make test PYTHON=...` hands its variables to the tests.
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "TORCH")}
        done = subprocess.run(
            command, cwd=clone, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    def test_serve_installs_only_what_it_needs(self, clone: Path) -> None:
        lines = self.printed(clone, "serve")
        assert lines[1] == f".venv/bin/python install.py --torch auto {SERVE_EXTRAS}"
        assert lines[-1] == '.venv/bin/dimml serve "runs/digits/bundle" --port 3000'

    @pytest.mark.parametrize("target", ["install", "test"])
    def test_other_targets_install_everything(self, clone: Path, target: str) -> None:
        assert self.printed(clone, target)[1].endswith(f"--torch auto {ALL_EXTRAS}")

    def test_variable_chooses_the_build_of_pytorch(self, clone: Path) -> None:
        assert "--torch cpu" in self.printed(clone, "serve", "TORCH=cpu")[1]

    def test_build_that_is_asked_for_is_checked_again(self, clone: Path) -> None:
        add_installation(clone)
        assert not any("install.py" in line for line in self.printed(clone, "serve"))
        assert "--torch cuda" in self.printed(clone, "serve", "TORCH=cuda")[0]

    def test_variable_chooses_the_python(self, clone: Path) -> None:
        line = self.printed(clone, "serve", "PYTHON=python3.13")[0]
        assert line == "python3.13 install.py --environment .venv"

    def test_python_that_is_asked_for_is_checked_again(self, clone: Path) -> None:
        add_installation(clone)
        assert not any("install.py" in line for line in self.printed(clone, "serve"))
        assert "python3.13 install" in self.printed(clone, "serve", "PYTHON=python3.13")[0]

    def test_every_extra_exists(self) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(ALL_EXTRAS.split()) <= set(extras["optional-dependencies"])
