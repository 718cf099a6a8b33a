"""What commands and servers import, write and connect to, in a folder and a home of a user."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dimml.machine import SOURCE_ROOT
from tests.conftest import PretrainedFolder
from tests.user_folder import UserFolder

REPORT_SECONDS = 12
"""Time after which onnxruntime 1.31 has looked up its maker's host, if it may."""

NEEDS_STRACE = "strace is not installed, which shows the connections of native threads"

RECIPE = """
name: notes
data: data.csv
feature_dim: 8
modalities:
  title: {{kind: text, encoder: {folder}}}
  note: text
training: {{epochs: 1, warm_up: 1, batch_size: 8}}
"""


@pytest.fixture(scope="module")
def journey(
    tmp_path_factory: pytest.TempPathFactory, pretrained_folder: PretrainedFolder
) -> UserFolder:
    """Train, export, predict and score in a user's folder, with an encoder from a local folder."""
    user = UserFolder(tmp_path_factory.mktemp("journey"))
    (user.path / "recipe.yaml").write_text(RECIPE.format(folder=pretrained_folder("text", "bert")))
    rows = [
        f"{n},{('train', 'train', 'validation')[n // 2 % 3]},{label},it is {label},{label} {n}"
        for n in range(48)
        for label in [("red", "blue")[n % 2]]
    ]
    table = "\n".join(["id,split,label,title,note", *rows])
    (user.path / "data.csv").write_text(table + "\n")
    for arguments in (
        ("train", "recipe.yaml", "--out", "run"),
        ("export", "run", "bundle"),
        ("predict", "bundle", "--note", "red"),
        ("score", "bundle", "data.csv", "scores", "--workers", "1", "--providers", "cpu"),
    ):
        done = user.run("-m", "dimml", *arguments)
        assert done.returncode == 0, done.stderr
    assert list((user.path / "scores").glob("part-*.parquet"))
    return user


def test_training_export_and_scoring_import_no_file_of_the_user(journey: UserFolder) -> None:
    assert journey.imported_files() == []


def test_training_export_and_scoring_write_nothing_into_the_home(journey: UserFolder) -> None:
    assert journey.files_at_home() == []


@pytest.mark.skipif(not shutil.which("strace"), reason=NEEDS_STRACE)
def test_training_export_and_scoring_connect_to_no_other_machine(journey: UserFolder) -> None:
    assert journey.remote_connections() == []


SERVERS = {
    "dimml": ("dimml", "serve", "{bundle}"),
    "bentoml": ("bentoml", "serve", "serving.service:Dimml"),
}


@contextmanager
def running_server(user: UserFolder, name: str, bundle: Path) -> Iterator[None]:
    """Serve a bundle from the folder of a user for the block, and answer one request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [word.format(bundle=bundle) for word in SERVERS[name]]
    bento = {"BENTOML_HOME": str(user.path.parent / "bentoml"), "DIMML_WORKERS": "1"}
    bento |= {"DIMML_BUNDLE": str(bundle), "DIMML_PROVIDERS": "cpu"}
    server = subprocess.Popen(
        user.command("-m", *words, "--host", "127.0.0.1", "--port", port),
        # `bentoml serve MODULE` imports from the current folder, which the user chooses.
        cwd=user.path if name == "dimml" else SOURCE_ROOT,
        env={**user.variables, **bento},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
        yield
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> dict[str, UserFolder]:
    """Serve in both ways until onnxruntime and BentoML would have reported."""
    users = {name: UserFolder(tmp_path_factory.mktemp("served")) for name in SERVERS}
    with ExitStack() as running:
        for name, user in users.items():
            running.enter_context(running_server(user, name, tiny_bundle))
        time.sleep(REPORT_SECONDS)
    return users


@pytest.fixture(params=SERVERS)
def served(request: pytest.FixtureRequest, servers: dict[str, UserFolder]) -> UserFolder:
    """Return the folder of a user in which one of the servers ran."""
    return servers[request.param]


def test_server_imports_no_file_of_the_user(served: UserFolder) -> None:
    assert served.imported_files() == []


def test_server_writes_nothing_into_the_home(served: UserFolder) -> None:
    assert served.files_at_home() == []


@pytest.mark.skipif(not shutil.which("strace"), reason=NEEDS_STRACE)
def test_server_connects_to_no_other_machine(served: UserFolder) -> None:
    assert served.remote_connections() == []


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server is not ready")
