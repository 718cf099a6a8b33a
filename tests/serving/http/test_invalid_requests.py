"""Invalid requests: each has its documented error, and the service answers further requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dimml import Predictor
from tests.serving.media import (
    JPEG,
    PNG,
    WAV,
    png_of_declared_size,
    to_base64,
    wav_of_declared_size,
)
from tests.serving.responses import assert_same, error_of

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_body_bytes=MAX_BODY_BYTES) as client:
        yield client


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, max_body_bytes=MAX_BODY_BYTES) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


def request_with_body(content_type: str, content: bytes) -> dict[str, Any]:
    return {"headers": {"Content-Type": content_type}, "content": content}


def request_with_json(content: bytes) -> dict[str, Any]:
    return request_with_body("application/json", content)


def request_with_file(name: str, content: bytes) -> dict[str, Any]:
    return {"files": {name: ("file.bin", content)}}


def request_with_field(name: str, content: str | bytes) -> dict[str, Any]:
    return {"files": {name: (None, content)}}


MULTIPART = "multipart/form-data; boundary=xyz"
PART = b'--xyz\r\nContent-Disposition: form-data; name="text"\r\n\r\nseven\r\n'
NO_MODALITY = (400, "no_modality", None)
INVALID_REQUEST = (422, "invalid_request", None)

INVALID_REQUESTS: dict[str, tuple[dict[str, Any], tuple[int, str, str | None]]] = {
    "no body": ({}, NO_MODALITY),
    "no body of some type": (request_with_body("text/plain", b""), NO_MODALITY),
    "empty form": (request_with_body(MULTIPART, b"--xyz--\r\n"), NO_MODALITY),
    "empty JSON object": (request_with_json(b"{}"), NO_MODALITY),
    "all blank": ({"files": {"text": (None, " \n"), "image": (None, "")}}, NO_MODALITY),
    "all null": (request_with_json(b'{"text": null, "image": null}'), NO_MODALITY),
    "empty file": (request_with_file("image", b""), (400, "unreadable", "image")),
    "empty text file": (request_with_file("text", b""), (400, "unreadable", "text")),
    "truncated PNG": (request_with_file("image", PNG[:500]), (400, "unreadable", "image")),
    "truncated JPEG": (request_with_file("image", JPEG[:500]), (400, "unreadable", "image")),
    "truncated WAV": (request_with_file("audio", WAV[:900]), (400, "unreadable", "audio")),
    "truncated base64 WAV": (
        {"json": {"audio": to_base64(WAV[:900])}},
        (400, "unreadable", "audio"),
    ),
    "WAV claiming 1 GB": (
        request_with_file("audio", wav_of_declared_size(2**30)),
        (400, "unreadable", "audio"),
    ),
    "text in the image": (
        request_with_file("image", b"not an image"),
        (415, "unsupported_type", "image"),
    ),
    "audio in the image": (request_with_file("image", WAV), (415, "unsupported_type", "image")),
    "image in the audio": (request_with_file("audio", PNG), (415, "unsupported_type", "audio")),
    "null bytes": (request_with_file("image", b"\0" * 1000), (415, "unsupported_type", "image")),
    "image in the text": (request_with_file("text", PNG), (400, "unreadable", "text")),
    "text that is not UTF-8": (
        request_with_field("text", b"\xff\xfe7"),
        (400, "unreadable", "text"),
    ),
    "urlencoded text that is not UTF-8": (
        request_with_body("application/x-www-form-urlencoded", b"text=%ff%fe"),
        (400, "unreadable", "text"),
    ),
    "3.6 gigapixels": (
        request_with_file("image", png_of_declared_size(60_000, 60_000)),
        (413, "too_large", "image"),
    ),
    "URL for a file": (
        request_with_field("image", "http://127.0.0.1:9/a.png"),
        (422, "invalid_request", "image"),
    ),
    "path for a file": (
        request_with_field("audio", "/etc/passwd"),
        (422, "invalid_request", "audio"),
    ),
    "URL in JSON": (
        {"json": {"image": "http://127.0.0.1:9/a.png"}},
        (422, "invalid_request", "image"),
    ),
    "path in JSON": ({"json": {"audio": "/etc/passwd"}}, (422, "invalid_request", "audio")),
    "bad base64": ({"json": {"image": "AAA"}}, (422, "invalid_request", "image")),
    "number for text": ({"json": {"text": 7}}, (422, "invalid_request", "text")),
    "two images for one": (
        {"json": {"image": [to_base64(PNG), to_base64(PNG)]}},
        (422, "invalid_request", "image"),
    ),
    "unknown field": (request_with_field("video", "x"), (422, "unknown_field", "video")),
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
    "missing boundary": (
        request_with_body("multipart/form-data", PART + b"--xyz--\r\n"),
        INVALID_REQUEST,
    ),
    "truncated multipart": (request_with_body(MULTIPART, PART), INVALID_REQUEST),
    "multipart cut in a part": (request_with_body(MULTIPART, PART[:-4]), INVALID_REQUEST),
    "not multipart": (request_with_body(MULTIPART, b"seven"), INVALID_REQUEST),
    "too many parts": (
        request_with_body(MULTIPART, PART.replace(b"seven", b"") * 50 + b"--xyz--\r\n"),
        INVALID_REQUEST,
    ),
    "malformed JSON": (request_with_json(b'{"text": '), INVALID_REQUEST),
    "NaN": (request_with_json(b'{"text": NaN}'), INVALID_REQUEST),
    "JSON array": (request_with_json(b"[1, 2]"), INVALID_REQUEST),
    "deep JSON": (request_with_json(b"[" * 50_000), INVALID_REQUEST),
    "wrong content type": (
        request_with_body("text/plain", b"seven"),
        (415, "unsupported_type", None),
    ),
    "no content type": ({"content": b"seven"}, (415, "unsupported_type", None)),
    "compressed": (
        {"headers": {"Content-Encoding": "gzip"}, "json": {"text": "seven"}},
        (415, "unsupported_type", None),
    ),
    "unknown on_unreadable": (
        {"params": {"on_unreadable": "maybe"}, **request_with_field("text", "seven")},
        (422, "invalid_request", "on_unreadable"),
    ),
    "unknown parameter": (
        {"params": {"debug": "1"}, **request_with_field("text", "seven")},
        (422, "unknown_field", "debug"),
    ),
    "body over the limit": (
        request_with_field("text", "x" * (MAX_BODY_BYTES + 1)),
        (413, "too_large", None),
    ),
    "chunked body over the limit": (
        {"headers": {"Content-Type": MULTIPART}, "content": [b"x" * 60_000] * 5},
        (413, "too_large", None),
    ),
}


def assert_has_error(response: Any, expected: tuple[int, str, str | None]) -> None:
    """Check the status of a response, and the code and the field of its error."""
    error = error_of(response)
    assert (response.status_code, error["code"], error["field"]) == expected
    assert len(error["message"]) < 500


def test_invalid_requests_are_documented(documented_responses: Any) -> None:
    errors = {name: (status, code) for name, (_, (status, code, _)) in INVALID_REQUESTS.items()}
    assert documented_responses("Common mistakes") == errors


@pytest.mark.parametrize("name", INVALID_REQUESTS)
def test_invalid_request_has_its_error_and_the_service_continues(
    client: TestClient, name: str
) -> None:
    request, error = INVALID_REQUESTS[name]
    if isinstance(request.get("content"), list):
        request = {**request, "content": iter(request["content"])}
    assert_has_error(client.post("/predict", **request), error)
    assert client.post("/predict", data={"text": "seven"}).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_method_is_a_405_that_names_the_allowed_method(
    client: TestClient, method: str
) -> None:
    response = client.request(method, "/predict")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert error_of(response)["code"] == "invalid_request"


def test_unknown_path_is_a_404(client: TestClient) -> None:
    response = client.get("/nope")
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_internal_error_is_a_500_without_the_exception(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(Predictor, "encode", fail)
    response = client.post("/predict", data={"text": "seven"})
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal"
    assert "secret" not in response.text


def test_concurrent_valid_and_invalid_requests_get_their_own_responses(
    server: Any, predictor: Predictor
) -> None:
    texts = ["one", "two", "three", "seven and one"]
    samples = [{"text": text} for text in texts] + [{"image": PNG}, {"audio": WAV}]
    predictions = [json.loads(json.dumps(predictor.predict(s).to_dict())) for s in samples]
    # Requests with `content` are left out: some hold a list of chunks, which needs an iterator.
    invalid = [request for request in INVALID_REQUESTS.values() if "content" not in request[0]]

    def check_valid(number: int) -> None:
        index = number % len(samples)
        files = {name: ("file", value) for name, value in samples[index].items()}
        assert_same(server.client.post("/predict", files=files).json(), predictions[index])

    def check_invalid(number: int) -> None:
        request, error = invalid[number % len(invalid)]
        assert_has_error(server.client.post("/predict", **request), error)

    checks: list[Callable[[int], None]] = [check_valid, check_invalid]
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(checks[n % 2], n // 2) for n in range(160)]:
            future.result()


def test_body_far_over_the_limit_gets_a_response(server: Any) -> None:
    for content in (b"x" * (2 * MAX_BODY_BYTES), iter([b"x" * 50_000] * 8)):
        headers = {"Content-Type": MULTIPART}
        response = server.client.post("/predict", content=content, headers=headers)
        assert response.status_code == 413
        assert error_of(response)["code"] == "too_large"
