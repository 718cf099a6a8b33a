"""The service as a whole: its predictions, pages, processes and failures to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dimml import Predictor
from dimml.machine import SOURCE_ROOT
from tests.serving.media import JPEG, PNG, WAV, to_base64
from tests.serving.responses import assert_same

MAX_BODY_BYTES = 200_000
TEXT_PART = (None, "seven")


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_body_bytes=MAX_BODY_BYTES) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle) as server:
        server.wait_until_ready()
        yield server


def test_import_needs_no_bundle_and_no_training_library(tmp_path: Path) -> None:
    code = (
        "import sys, serving.service\n"
        "heavy = {'torch', 'transformers', 'pytorch_lightning', 'librosa', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT), "BENTOML_HOME": str(tmp_path)}
    environment["DIMML_BUNDLE"] = str(tmp_path / "missing")
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


class TestPredict:
    def test_response_equals_the_prediction_of_the_predictor(
        self, client: TestClient, predictor: Predictor
    ) -> None:
        files = {"audio": ("a.wav", WAV), "image": ("a.png", PNG), "text": TEXT_PART}
        response = client.post("/predict", files=files)
        assert response.status_code == 200
        expected = predictor.predict({"audio": WAV, "image": PNG, "text": "seven"}).to_dict()
        assert_same(response.json(), json.loads(json.dumps(expected)))

    @pytest.mark.parametrize("names", [("audio",), ("image",), ("text",), ("audio", "text")])
    def test_any_subset_of_modalities_is_predicted(
        self, client: TestClient, predictor: Predictor, names: tuple[str, ...]
    ) -> None:
        values = {"audio": WAV, "image": JPEG, "text": "seven"}
        files = {name: (f"{name}.bin", values[name]) for name in names}
        prediction = client.post("/predict", files=files).json()
        expected = predictor.predict({name: values[name] for name in names}).to_dict()
        assert_same(prediction, json.loads(json.dumps(expected)))
        modalities = prediction["modalities"].items()
        assert [name for name, modality in modalities if modality["present"]] == list(names)

    def test_json_and_urlencoded_bodies_give_the_same_prediction_as_multipart(
        self, client: TestClient
    ) -> None:
        files = {"audio": ("a.wav", WAV), "image": ("a.png", PNG), "text": TEXT_PART}
        document = {"audio": to_base64(WAV), "image": to_base64(PNG), "text": "seven"}
        assert client.post("/predict", files=files).json() == (
            client.post("/predict", json=document).json()
        )
        text_responses = [
            client.post("/predict", files={"text": TEXT_PART}),
            client.post("/predict", json={"text": "seven", "image": None}),
            client.post("/predict", data={"text": "seven"}),
            client.post("/predict", files={"text": ("note.txt", b"seven")}),
        ]
        first = text_responses[0].json()
        assert all(response.json() == first for response in text_responses)

    @pytest.mark.parametrize("text", ["🎲 sieben 7️⃣", "123", "null", "a\x00b", "x" * 20_000])
    def test_text_is_not_interpreted(
        self, client: TestClient, predictor: Predictor, text: str
    ) -> None:
        response = client.post("/predict", files={"text": (None, text.encode())})
        assert response.status_code == 200
        assert response.json()["label"] == predictor.predict({"text": text}).label

    def test_long_file_name_changes_nothing(self, client: TestClient) -> None:
        short_name = client.post("/predict", files={"image": ("a.png", PNG)})
        long_name = client.post("/predict", files={"image": ("n" * 300 + ".png", PNG)})
        assert short_name.json() == long_name.json()

    def test_on_unreadable_absent_predicts_from_the_other_modalities(
        self, client: TestClient
    ) -> None:
        files = {"image": ("a.png", PNG[:200]), "audio": ("a.wav", b""), "text": TEXT_PART}
        response = client.post("/predict?on_unreadable=absent", files=files)
        assert response.status_code == 200
        image = response.json()["modalities"]["image"]
        assert (image["present"], image["weight"]) == (False, 0.0)
        assert image["warnings"][0].startswith("unreadable: ")
        assert response.json()["modalities"]["text"]["weight"] == 1.0


def test_bundle_page_describes_the_served_bundle(client: TestClient, tiny_bundle: Path) -> None:
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    page = client.get("/bundle").json()
    assert page["labels"] == manifest["labels"]
    assert page["name"] == manifest["name"]
    assert page["bundle"].startswith(manifest["name"] + "@")
    assert {name: modality["kind"] for name, modality in page["modalities"].items()} == {
        name: spec["kind"] for name, spec in manifest["modalities"].items()
    }
    assert "WAV" in page["modalities"]["audio"]["input"]
    assert page["limits"]["bytes"] == MAX_BODY_BYTES
    assert page["provider"] == "cpu"


def test_health_pages_answer_200(client: TestClient) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


class TestServer:
    def test_metrics_name_the_provider_and_count_responses(self, server: Any) -> None:
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
        deadline = time.monotonic() + 30
        for worker in workers:
            maps = Path(f"/proc/{worker}/maps").read_text()
            # The service is ready with its first worker; the second may still be loading.
            while "onnxruntime" not in maps and time.monotonic() < deadline:
                time.sleep(0.1)
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
    def test_failed_start_prints_one_message_and_no_traceback(
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
