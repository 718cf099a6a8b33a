"""`dimml push`: what reaches the hub, and each refusal. The hub is the stand-in of `hub.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from dimml.bundle import Bundle
from dimml.cli import main
from dimml.machine import SOURCE_ROOT
from tests.export.hub import TOKEN, Hub, Repository, running_hub
from tests.serving.page.page_bundle import add_examples

REPOSITORY = "jane/digits"
Push = Callable[..., tuple[object, str, str]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Run a hub that this process uses, with a token that may write."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def push(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle: Path
) -> Push:
    """Return a function that pushes a bundle: exit code, standard output and error."""

    def call(*options: str, bundle: Path = tiny_bundle, to: str = REPOSITORY) -> tuple:
        monkeypatch.setattr("sys.argv", ["dimml", "push", str(bundle), to, *options])
        with pytest.raises(SystemExit) as exited:
            main()
        return exited.value.code, *capsys.readouterr()

    return call


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_pushed_bundle_is_downloaded_as_the_same_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "README.md").write_text("# A bundle\n")
    (bundle / "evaluation.json").write_text("{}\n")
    expected = files_of(bundle)
    (bundle / "notes.txt").write_text("not a file of the bundle")
    with running_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "dimml", "push", str(bundle), REPOSITORY, "--json"],
            env={
                **os.environ,
                "PYTHONPATH": str(SOURCE_ROOT),
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DISABLE_XET": "1",
                "HF_TOKEN": TOKEN,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        folder = snapshot_download(
            REPOSITORY, local_dir=tmp_path / "pulled", endpoint=hub.url, token=TOKEN
        )
        stored = hub.repositories[REPOSITORY]
    pushed = json.loads(done.stdout)
    assert stored.branches["main"] == expected
    assert stored.messages == [f"Upload {Bundle.load(bundle).id}"]
    assert pushed["commit"] == stored.commit_id("main")
    assert pushed["files"] == len(expected)
    assert pushed["bytes"] == sum(map(len, expected.values()))
    assert files_of(Path(folder)) == expected
    assert Bundle.load(folder).id == Bundle.load(bundle).id == pushed["bundle"]


def test_url_of_the_repository_is_printed(hub: Hub, push: Push) -> None:
    code, output, errors = push()
    assert (code, output) == (0, f"{hub.url}/{REPOSITORY}\n")
    assert "MB, to http" in errors
    assert "rows of the data" not in errors


def test_new_repository_is_private_on_request(hub: Hub, push: Push) -> None:
    assert push()[0] == 0
    assert push("--private", to="jane/secret")[0] == 0
    assert [repository.private for repository in hub.repositories.values()] == [False, True]


def test_private_push_to_a_public_repository_is_refused(hub: Hub, push: Push) -> None:
    hub.repositories[REPOSITORY] = Repository(private=False)
    code, _, errors = push("--private")
    assert code == 2
    assert "exists and is public" in errors
    assert hub.repositories[REPOSITORY] == Repository()


def test_missing_branch_is_created_and_the_message_is_that_of_the_commit(
    hub: Hub, push: Push, tiny_bundle: Path
) -> None:
    code, output, _ = push("--revision", "int8", "--message", "8 bits")
    assert (code, output) == (0, f"{hub.url}/{REPOSITORY}/tree/int8\n")
    repository = hub.repositories[REPOSITORY]
    assert repository.branches == {"main": {}, "int8": files_of(tiny_bundle)}
    assert repository.messages == ["8 bits"]


def test_second_push_of_the_same_bundle_makes_no_commit(hub: Hub, push: Push) -> None:
    assert push()[0] == 0
    hub.requests.clear()
    assert push()[0] == 0
    assert len(hub.repositories[REPOSITORY].messages) == 1
    assert not [request for request in hub.requests if request.startswith("PUT")]


def test_rows_of_the_data_in_a_bundle_are_announced(
    hub: Hub, push: Push, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = add_examples(tiny_bundle, tmp_path / "bundle")
    (bundle / "report.html").write_text("<p>")
    code, _, errors = push(bundle=bundle)
    assert code == 0
    assert "holds 2 examples, which are rows of the data" in errors
    # The report shows rows, too, and is not uploaded.
    (bundle / "report.html").unlink()
    assert hub.repositories[REPOSITORY].branches["main"] == files_of(bundle)


def test_push_without_a_token_is_refused_before_any_request(
    hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, _, errors = push()
    assert code == 1
    assert "set HF_TOKEN to a token with write access, or store one with `hf auth login`" in errors
    assert hub.requests == []


def test_stored_token_is_used(hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)
    assert push()[0] == 0


def test_rejected_token_is_named(hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_revoked")
    code, _, errors = push()
    assert code == 1
    assert "the hub answered 401: the hub does not accept the token" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("request_text", "status", "message"),
    [
        ("repos/create", 403, "answered 403: the token may not write there"),
        ("preupload", 404, "answered 404: there is no such owner, repository or branch"),
        ("PUT /storage", 403, "answered 403: the token may not write there"),
        ("commit", 400, "answered 400: refused"),
    ],
)
def test_refusal_of_the_hub_is_one_line_and_commits_nothing(
    hub: Hub, push: Push, request_text: str, status: int, message: str
) -> None:
    hub.failures[request_text] = status
    code, output, errors = push()
    assert (code, output) == (1, "")
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert all(not repository.messages for repository in hub.repositories.values())


def test_push_without_a_network_is_one_line(
    hub: Hub, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, errors = push()
    assert code == 1
    assert "Connection refused; check the network" in errors.splitlines()[-1]


def test_push_goes_on_after_a_connection_that_broke(
    hub: Hub, push: Push, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client waits for seconds between its attempts.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.failures["PUT /storage"] = 0
    code, _, errors = push()
    assert code == 1
    assert "run the same command again" in errors.splitlines()[-1]
    assert hub.repositories[REPOSITORY].messages == []
    hub.failures.clear()
    assert push()[0] == 0
    assert hub.repositories[REPOSITORY].branches["main"] == files_of(tiny_bundle)


def test_damaged_bundle_is_refused_before_any_request(
    hub: Hub, push: Push, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "classifier.onnx").write_bytes(b"damaged")
    code, _, errors = push(bundle=bundle)
    assert code == 2
    assert "classifier.onnx is not the file that was exported" in errors
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "message"),
    [(name, "write OWNER/NAME") for name in ("digits", "a/b/c", "a/-b", "/x", "jane/", "a b/c")],
)
def test_invalid_name_of_a_repository_is_refused(
    hub: Hub, push: Push, name: str, message: str
) -> None:
    code, _, errors = push(to=name)
    assert code == 2
    assert message in errors
    assert hub.requests == []
