"""`dimml package`: the content of a bento, its predictions, and rejected bundles."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dimml import Predictor
from dimml.errors import BundleError
from export.package import build_bento


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        store = tmp_path_factory.mktemp("store")
        monkeypatch.setenv("BENTOML_HOME", str(store))
        # The build must work without a package index.
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        yield store


@pytest.fixture(scope="module")
def tag(store: Path, tiny_bundle: Path) -> str:
    return build_bento(tiny_bundle)


def test_bento_holds_the_bundle_and_no_training_code(
    store: Path, tag: str, tiny_bundle: Path
) -> None:
    name, version = tag.split(":")
    source = store / "bentos" / name / version / "src"
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    packed = {path.name for path in (source / "runs/digits/bundle").iterdir()}
    assert packed >= {"manifest.json", *manifest["files"]}
    assert (source / "serving/service.py").is_file()
    assert not (source / "dimml/nn").exists()
    assert not list(source.rglob("__pycache__"))


def test_bento_answers_like_its_bundle_beside_a_file_named_serving(
    store: Path, tag: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "serving.py").write_text("raise SystemExit('this is not the service')")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("DIMML_", "PYTHONPATH"))
    }
    command = [sys.executable, "-m", "bentoml", "serve", tag, "--host", "127.0.0.1"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=tmp_path,
            env={**environment, "DIMML_WORKERS": "1", "DIMML_UI": "0"},
            stdout=log,
            stderr=log,
        )
        try:
            answer = post_when_ready(server, f"http://127.0.0.1:{port}", {"text": "seven"})
        finally:
            server.terminate()
            server.wait(timeout=30)
    expected = Predictor.load(tiny_bundle, providers="cpu").predict({"text": "seven"})
    assert answer["bundle"] == expected.bundle
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-5)


def test_invalid_bundle_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        build_bento(tmp_path)


def test_link_inside_a_bundle_is_rejected(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "secret").write_text("secret")
    (bundle / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match=r"README\.md is a link"):
        build_bento(bundle)


def post_when_ready(
    server: subprocess.Popen[bytes], url: str, form: dict[str, str]
) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            answer = httpx.post(f"{url}/predict", data=form, timeout=30, trust_env=False)
        except httpx.TransportError:
            time.sleep(0.1)
            continue
        return dict(answer.raise_for_status().json())
    raise AssertionError("the bento did not become ready within 60 seconds")
