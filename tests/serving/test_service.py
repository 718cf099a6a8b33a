from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dimml import Predictor
from dimml.machine import SOURCE_ROOT
from tests.serving.answers import assert_same
from tests.serving.media import JPEG, PNG, WAV, encoded

LIMIT = 200_000
"""Bytes that the services of these tests accept."""

TEXT = (None, "seven")


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_body_bytes=LIMIT) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


class TestImport:
    def test_it_needs_no_bundle_and_loads_nothing_of_training(self, tmp_path: Path) -> None:
        code = (
            "import sys, serving.service\n"
            "heavy = {'torch', 'transformers', 'pytorch_lightning', 'librosa', 'numba'}\n"
            "print(sorted(heavy & set(sys.modules)))"
        )
        environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT), "BENTOML_HOME": str(tmp_path)}
        environment["DIMML_BUNDLE"] = str(tmp_path / "missing")
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "[]"


class TestPredict:
    def test_the_answer_is_that_of_the_predictor(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        files = {"audio": ("a.wav", WAV), "image": ("a.png", PNG), "text": TEXT}
        answer = client.post("/predict", files=files)
        assert answer.status_code == 200
        expected = predictor.predict({"audio": WAV, "image": PNG, "text": "seven"}).to_dict()
        assert_same(answer.json(), json.loads(json.dumps(expected)))

    @pytest.mark.parametrize("names", [("audio",), ("image",), ("text",), ("audio", "text")])
    def test_any_subset_answers(
        self, client: TestClient, predictor: Predictor, names: tuple[str, ...]
    ) -> None:
        values = {"audio": WAV, "image": JPEG, "text": "seven"}
        files = {name: (f"{name}.bin", values[name]) for name in names}
        answer = client.post("/predict", files=files).json()
        expected = predictor.predict({name: values[name] for name in names}).to_dict()
        assert_same(answer, json.loads(json.dumps(expected)))
        assert [name for name, said in answer["modalities"].items() if said["present"]] == list(
            names
        )

    def test_json_and_urlencoded_bodies_answer_like_multipart(self, client: TestClient) -> None:
        files = {"audio": ("a.wav", WAV), "image": ("a.png", PNG), "text": TEXT}
        document = {"audio": encoded(WAV), "image": encoded(PNG), "text": "seven"}
        assert client.post("/predict", files=files).json() == (
            client.post("/predict", json=document).json()
        )
        texts = [
            client.post("/predict", files={"text": TEXT}),
            client.post("/predict", json={"text": "seven", "image": None}),
            client.post("/predict", data={"text": "seven"}),
            client.post("/predict", files={"text": ("note.txt", b"seven")}),
        ]
        assert all(answer.json() == texts[0].json() for answer in texts)

    @pytest.mark.parametrize("text", ["🎲 sieben 7️⃣", "123", "null", "a\x00b", "x" * 20_000])
    def test_any_text_is_taken_as_it_is_written(
        self, client: TestClient, predictor: Predictor, text: str
    ) -> None:
        answer = client.post("/predict", files={"text": (None, text.encode())})
        assert answer.status_code == 200
        assert answer.json()["label"] == predictor.predict({"text": text}).label

    def test_a_long_file_name_changes_nothing(self, client: TestClient) -> None:
        plain = client.post("/predict", files={"image": ("a.png", PNG)})
        long = client.post("/predict", files={"image": ("n" * 300 + ".png", PNG)})
        assert plain.json() == long.json()

    def test_on_unreadable_absent_lets_the_rest_answer(self, client: TestClient) -> None:
        files = {"image": ("a.png", PNG[:200]), "audio": ("a.wav", b""), "text": TEXT}
        answer = client.post("/predict?on_unreadable=absent", files=files)
        assert answer.status_code == 200
        image = answer.json()["modalities"]["image"]
        assert (image["present"], image["weight"]) == (False, 0.0)
        assert image["warnings"][0].startswith("unreadable: ")
        assert answer.json()["modalities"]["text"]["weight"] == 1.0


class TestPages:
    def test_bundle_describes_what_is_served(self, client: TestClient, tiny_bundle: Path) -> None:
        manifest = json.loads((tiny_bundle / "manifest.json").read_text())
        page = client.get("/bundle").json()
        assert page["labels"] == manifest["labels"]
        assert page["name"] == manifest["name"]
        assert page["bundle"].startswith(manifest["name"] + "@")
        assert {name: said["kind"] for name, said in page["modalities"].items()} == {
            name: spec["kind"] for name, spec in manifest["modalities"].items()
        }
        assert "WAV" in page["modalities"]["audio"]["input"]
        assert page["limits"]["bytes"] == LIMIT
        assert page["provider"] == "cpu"

    def test_it_lives_and_is_ready(self, client: TestClient) -> None:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, max_body_bytes=LIMIT) as server:
        server.wait()
        yield server


class TestServer:
    def test_metrics_name_the_provider_and_count_answers(self, server: Any) -> None:
        server.client.post("/predict", data={"text": "seven"})
        server.client.get("/nope")
        lines = server.client.get("/metrics").text.splitlines()
        assert 'dimml_provider_info{provider="cpu"} 1.0' in lines
        counts = {
            line.split()[0]: float(line.split()[1])
            for line in lines
            if line.startswith("dimml_requests_total")
        }
        assert counts['dimml_requests_total{status="200"}'] >= 1
        assert counts['dimml_requests_total{status="404"}'] >= 1

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
    def test_workers_never_load_torch(self, server: Any) -> None:
        for name, content in (("image", PNG), ("audio", WAV), ("text", b"seven")):
            files = {name: ("file.bin", content)}
            assert server.client.post("/predict", files=files).status_code == 200
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        workers = children.read_text().split()
        assert len(workers) == 2
        for worker in workers:
            maps = Path(f"/proc/{worker}/maps").read_text()
            assert "onnxruntime" in maps
            assert "libtorch" not in maps
            assert "numba" not in maps

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "dimml export RUN BUNDLE"),
            ({"workers": "none"}, "DIMML_WORKERS='none' is not valid"),
            ({"api_keys_file": "nowhere"}, "cannot read DIMML_API_KEYS_FILE"),
        ],
        ids=["missing bundle", "invalid setting", "missing keys"],
    )
    def test_what_cannot_be_served_is_one_message_and_a_failure(
        self,
        tiny_bundle: Path,
        tmp_path: Path,
        open_server: Any,
        settings: dict[str, str],
        message: str,
    ) -> None:
        bundle = tiny_bundle if "api_keys_file" in settings else tmp_path / "nothing"
        with open_server(bundle, **settings) as server:
            assert server.process.wait(timeout=60) not in (0, None)
            assert message in server.log()
            assert "Traceback" not in server.log()
