from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dimml import Predictor
from tests.serving.answers import assert_same, error_of
from tests.serving.media import JPEG, PNG, WAV, encoded, png_header, wav_claiming

LIMIT = 200_000
"""Bytes that the services of these tests accept."""


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_body_bytes=LIMIT) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


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


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, max_body_bytes=LIMIT) as server:
        server.wait()
        yield server


class TestConcurrent:
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
