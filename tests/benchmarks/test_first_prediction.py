"""The measurement from a clone to a prediction, with Makefiles that take the place of ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks import first_prediction
from dimml.errors import DimmlError

SERVER = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if body == b"text=NUN" else 400)
        self.end_headers()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", self.headers["Accept"])
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def write_makefile(folder: Path, *commands: str) -> None:
    lines = "".join(f"\t@{command}\n" for command in commands)
    (folder / "Makefile").write_text(f"serve:\n{lines}")


def test_stages_follow_the_commands_of_make(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "busy.py").write_text("import time\nwhile time.process_time() < 0.4: pass\n")
    write_makefile(
        tmp_path,
        "echo .venv/bin/python install.py --torch auto train",
        "echo test -d data '||' .venv/bin/dimml data digits data",
        f"{sys.executable} busy.py",
        "echo .venv/bin/dimml serve bundle --port $(PORT)",
        f"{sys.executable} server.py $(PORT)",
    )
    stages = first_prediction.measure(tmp_path, os.environ)
    assert list(stages.seconds) == ["install", "data", "ready", "page"]
    assert list(stages.cpu_seconds) == ["install", "data"]
    assert stages.seconds["data"] >= 0.4
    assert stages.cpu_seconds["data"] >= 0.4
    assert stages.seconds["ready"] > 0


def test_failure_of_make_names_the_stage(tmp_path: Path) -> None:
    write_makefile(tmp_path, "echo .venv/bin/dimml train recipe.yaml", "false")
    with pytest.raises(DimmlError, match="failed in the stage train"):
        first_prediction.measure(tmp_path, os.environ)


def test_service_that_ends_is_an_error(tmp_path: Path) -> None:
    write_makefile(tmp_path, "echo .venv/bin/dimml serve bundle", "false")
    with pytest.raises(DimmlError, match="the service ended"):
        first_prediction.measure(tmp_path, os.environ)


def test_service_that_refuses_the_sample_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER.replace("200 if", "503 if"))
    run = f"{sys.executable} server.py $(PORT)"
    write_makefile(tmp_path, "echo .venv/bin/dimml serve bundle", run)
    with pytest.raises(DimmlError, match="answers 503"):
        first_prediction.measure(tmp_path, os.environ)
