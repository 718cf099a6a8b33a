from __future__ import annotations

import base64
import importlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.testclient import TestClient

from dimml import Predictor
from dimml.machine import SOURCE_ROOT
from serving.http.errors import HttpError

LIMIT = 200_000
"""Bytes that the services of these tests accept."""


def wav(seconds: float = 1.0) -> bytes:
    time_axis = np.arange(int(16_000 * seconds)) / 16_000
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * time_axis), 16_000, format="WAV")
    return file.getvalue()


def picture(kind: str = "PNG", size: int = 40) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def wav_claiming(size: int) -> bytes:
    content = bytearray(wav())
    content[40:44] = struct.pack("<I", size)
    return bytes(content)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


WAV, PNG, JPEG = wav(), picture("PNG"), picture("JPEG")
TEXT = (None, "seven")


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_body_bytes=LIMIT) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "field"}
    return dict(answer.json()["error"])


def assert_same(first: Any, second: Any) -> None:
    """Equal answers, numbers within 1e-5."""
    if isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-5)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert first == second


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


def _multipart(content_type: str, content: bytes) -> dict[str, Any]:
    return {"headers": {"Content-Type": content_type}, "content": content}


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {"files": {name: ("file.bin", content)}}


def _field(name: str, content: str | bytes) -> dict[str, Any]:
    return {"files": {name: (None, content)}}


def _json(content: bytes) -> dict[str, Any]:
    return _multipart("application/json", content)


FORM = "multipart/form-data; boundary=xyz"
PART = b'--xyz\r\nContent-Disposition: form-data; name="text"\r\n\r\nseven\r\n'
NO_MODALITY = (400, "no_modality", None)
INVALID = (422, "invalid_request", None)

REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str, str | None]]] = {
    "no body": ({}, NO_MODALITY),
    "no body of some type": (_multipart("text/plain", b""), NO_MODALITY),
    "empty form": (_multipart(FORM, b"--xyz--\r\n"), NO_MODALITY),
    "empty JSON object": (_json(b"{}"), NO_MODALITY),
    "all blank": ({"files": {"text": (None, " \n"), "image": (None, "")}}, NO_MODALITY),
    "all null": (_json(b'{"text": null, "image": null}'), NO_MODALITY),
    "empty file": (_file("image", b""), (400, "unreadable", "image")),
    "empty text file": (_file("text", b""), (400, "unreadable", "text")),
    "truncated PNG": (_file("image", PNG[:500]), (400, "unreadable", "image")),
    "truncated JPEG": (_file("image", JPEG[:500]), (400, "unreadable", "image")),
    "truncated WAV": (_file("audio", WAV[:900]), (400, "unreadable", "audio")),
    "truncated base64 WAV": (
        {"json": {"audio": encoded(WAV[:900])}},
        (400, "unreadable", "audio"),
    ),
    "WAV claiming 4 GB": (
        _file("audio", wav_claiming(2**32 - 1)),
        (400, "unreadable", "audio"),
    ),
    "text in the image": (_file("image", b"not an image"), (415, "unsupported_type", "image")),
    "audio in the image": (_file("image", WAV), (415, "unsupported_type", "image")),
    "image in the audio": (_file("audio", PNG), (415, "unsupported_type", "audio")),
    "null bytes": (_file("image", b"\0" * 1000), (415, "unsupported_type", "image")),
    "image in the text": (_file("text", PNG), (400, "unreadable", "text")),
    "text that is not UTF-8": (_field("text", b"\xff\xfe7"), (400, "unreadable", "text")),
    "urlencoded text that is not UTF-8": (
        _multipart("application/x-www-form-urlencoded", b"text=%ff%fe"),
        (400, "unreadable", "text"),
    ),
    "3.6 gigapixels": (_file("image", png_header(60_000, 60_000)), (413, "too_large", "image")),
    "huge text": (_field("text", "x" * 20_001), (413, "too_large", "text")),
    "URL for a file": (
        _field("image", "http://127.0.0.1:9/a.png"),
        (422, "invalid_request", "image"),
    ),
    "path for a file": (_field("audio", "/etc/passwd"), (422, "invalid_request", "audio")),
    "URL in JSON": (
        {"json": {"image": "http://127.0.0.1:9/a.png"}},
        (422, "invalid_request", "image"),
    ),
    "path in JSON": ({"json": {"audio": "/etc/passwd"}}, (422, "invalid_request", "audio")),
    "bad base64": ({"json": {"image": "AAA"}}, (422, "invalid_request", "image")),
    "number for text": ({"json": {"text": 7}}, (422, "invalid_request", "text")),
    "list for one image": (
        {"json": {"image": [encoded(PNG)]}},
        (422, "invalid_request", "image"),
    ),
    "unknown field": (_field("video", "x"), (422, "unknown_field", "video")),
    "unknown key": ({"json": {"video": "x"}}, (422, "unknown_field", "video")),
    "unknown urlencoded field": ({"data": {"video": "x"}}, (422, "unknown_field", "video")),
    "file as urlencoded": (
        {"data": {"image": "/etc/passwd"}},
        (422, "invalid_request", "image"),
    ),
    "field given twice": (
        {"files": [("text", (None, "a")), ("text", (None, "b"))]},
        (422, "invalid_request", "text"),
    ),
    "missing boundary": (_multipart("multipart/form-data", PART + b"--xyz--\r\n"), INVALID),
    "truncated multipart": (_multipart(FORM, PART), INVALID),
    "multipart cut in a part": (_multipart(FORM, PART[:-4]), INVALID),
    "not multipart": (_multipart(FORM, b"seven"), INVALID),
    "too many parts": (
        _multipart(FORM, PART.replace(b"seven", b"") * 50 + b"--xyz--\r\n"),
        INVALID,
    ),
    "malformed JSON": (_json(b'{"text": '), INVALID),
    "NaN": (_json(b'{"text": NaN}'), INVALID),
    "JSON array": (_json(b"[1, 2]"), INVALID),
    "deep JSON": (_json(b"[" * 50_000), INVALID),
    "wrong content type": (_multipart("text/plain", b"seven"), (415, "unsupported_type", None)),
    "no content type": ({"content": b"seven"}, (415, "unsupported_type", None)),
    "compressed": (
        {"headers": {"Content-Encoding": "gzip"}, "json": {"text": "seven"}},
        (415, "unsupported_type", None),
    ),
    "unknown on_unreadable": (
        {"params": {"on_unreadable": "maybe"}, **_field("text", "seven")},
        (422, "invalid_request", "on_unreadable"),
    ),
    "unknown parameter": (
        {"params": {"debug": "1"}, **_field("text", "seven")},
        (422, "unknown_field", "debug"),
    ),
    "body over the limit": (_field("text", "x" * (LIMIT + 1)), (413, "too_large", None)),
    "chunked body over the limit": (
        {"headers": {"Content-Type": FORM}, "content": [b"x" * 60_000] * 5},
        (413, "too_large", None),
    ),
}


class TestRefusals:
    def test_they_are_documented(self, documented: Any) -> None:
        expected = {name: (status, code) for name, (_, (status, code, _)) in REFUSED.items()}
        assert documented("Common mistakes") == expected

    @pytest.mark.parametrize("name", REFUSED)
    def test_each_has_its_status_code_and_field_and_the_service_goes_on(
        self, client: TestClient, name: str
    ) -> None:
        request, (status, code, field) = REFUSED[name]
        if isinstance(request.get("content"), list):
            request = {**request, "content": iter(request["content"])}
        answer = client.post("/predict", **request)
        error = error_of(answer)
        assert (answer.status_code, error["code"], error["field"]) == (status, code, field)
        assert len(error["message"]) < 500
        assert client.post("/predict", data={"text": "seven"}).status_code == 200

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
    def test_another_method_is_a_405_that_says_which_to_use(
        self, client: TestClient, method: str
    ) -> None:
        answer = client.request(method, "/predict")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert error_of(answer)["code"] == "invalid_request"

    def test_another_path_is_a_404(self, client: TestClient) -> None:
        answer = client.get("/nope")
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "not_found"

    def test_a_failure_of_ours_is_a_500_without_traceback(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(Predictor, "encode", fail)
        answer = client.post("/predict", data={"text": "seven"})
        assert answer.status_code == 500
        assert error_of(answer)["code"] == "internal"
        assert "secret" not in answer.text


def test_bentoml_and_the_middleware_call_the_same_handler(client: TestClient) -> None:
    service: Any = importlib.import_module("serving.service").Dimml
    assert service.middleware._predict.func is service.apis["predict"].func


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

    def test_openapi_is_valid_and_names_the_modalities(self, client: TestClient) -> None:
        document = client.get("/openapi.json").json()
        assert document["openapi"].startswith("3.1")
        OpenAPIV31SpecValidator(document).validate()
        content = document["paths"]["/predict"]["post"]["requestBody"]["content"]
        names = {kind: set(body["schema"]["properties"]) for kind, body in content.items()}
        assert names == {
            "multipart/form-data": {"audio", "image", "text"},
            "application/json": {"audio", "image", "text"},
            "application/x-www-form-urlencoded": {"text"},
        }

    def test_openapi_names_every_status(self, client: TestClient) -> None:
        document = client.get("/openapi.json").json()
        answered = {200, *(error.status for error in HttpError)} - {404, 405, 408, 431}
        named = document["paths"]["/predict"]["post"]["responses"]
        assert {int(status) for status in named} == answered

    def test_answers_have_the_documented_keys(self, client: TestClient) -> None:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        answer = client.post("/predict", data={"text": "seven"}).json()
        assert set(answer) == set(schemas["PredictAnswer"]["properties"])
        for said in answer["modalities"].values():
            assert set(said) == set(schemas["ModalityAnswer"]["properties"])


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, max_body_bytes=LIMIT) as server:
        server.wait()
        yield server


class TestServer:
    def test_concurrent_requests_good_and_bad_each_get_their_own_answer(
        self, server: Any, predictor: Predictor
    ) -> None:
        texts = ["one", "two", "three", "seven and one"]
        samples = [{"text": text} for text in texts] + [{"image": PNG}, {"audio": WAV}]
        expected = [json.loads(json.dumps(predictor.predict(s).to_dict())) for s in samples]
        bad = [request for request in REFUSED.values() if "content" not in request[0]]

        def check_good(number: int) -> None:
            which = number % len(samples)
            files = {name: ("file", value) for name, value in samples[which].items()}
            assert_same(server.client.post("/predict", files=files).json(), expected[which])

        def check_bad(number: int) -> None:
            request, (status, code, field) = bad[number % len(bad)]
            answer = server.client.post("/predict", **request)
            error = error_of(answer)
            assert (answer.status_code, error["code"], error["field"]) == (status, code, field)

        checks: list[Callable[[int], None]] = [check_good, check_bad]
        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(checks[n % 2], n // 2) for n in range(160)]:
                done.result()

    def test_a_body_far_over_the_limit_is_answered_not_cut_off(self, server: Any) -> None:
        for content in (b"x" * (2 * LIMIT), iter([b"x" * 50_000] * 8)):
            answer = server.client.post("/predict", content=content, headers={"Content-Type": FORM})
            assert answer.status_code == 413
            assert error_of(answer)["code"] == "too_large"

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
        for request in (_file("image", PNG), _file("audio", WAV), _field("text", "seven")):
            assert server.client.post("/predict", **request).status_code == 200
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
