from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock

import pytest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.batching import Batcher
from serving.http.errors import HttpError
from serving.http.messages import Submission
from serving.http.middleware import ServiceMiddleware
from serving.settings import get_settings
from tests.serving.responses import error_of


@pytest.fixture(autouse=True)
def _short_timeout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DIMML_TIMEOUT", "0.2")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def get(app: ASGIApp) -> Any:
    client = TestClient(
        ServiceMiddleware(app, get_settings()),
        raise_server_exceptions=False,
        client=("127.0.0.1", 1),
    )
    return client.get("/some/path")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (404, "not_found"),
        (405, "invalid_request"),
        (413, "too_large"),
        (415, "unsupported_type"),
        (418, "invalid_request"),
        (429, "overloaded"),
        (500, "internal"),
        (502, "internal"),
        (503, "overloaded"),
        (504, "timeout"),
    ],
)
@pytest.mark.parametrize("body", ["no", '{"error": "no"}', '[{"error": "no"}]', ""])
def test_error_of_another_layer_becomes_a_json_error(status: int, code: str, body: str) -> None:
    response = get(PlainTextResponse(body, status))
    assert response.status_code == status
    assert error_of(response)["code"] == code


def test_own_errors_and_successes_are_unchanged() -> None:
    body = HttpError.UNREADABLE.body("broken", "image")
    response = get(Response(body, 400, {"x-mark": "1"}, "application/json"))
    assert (response.content, response.headers["x-mark"]) == (body, "1")
    assert get(PlainTextResponse("fine")).text == "fine"
    assert get(StreamingResponse(iter([b"a", b"b"]))).text == "ab"


def test_allow_is_kept_and_retry_after_is_added() -> None:
    assert get(PlainTextResponse("no", 405, {"Allow": "POST"})).headers["allow"] == "POST"
    assert get(PlainTextResponse("no", 503)).headers["retry-after"] == "1"
    assert get(PlainTextResponse("no", 429, {"Retry-After": "7"})).headers["retry-after"] == "7"


def test_exception_is_a_500_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret")

    response = get(broken)
    assert response.status_code == 500
    assert error_of(response)["code"] == "internal"
    assert "secret" not in response.text


def test_slow_response_is_a_504() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    response = get(slow)
    assert response.status_code == 504
    assert error_of(response) == {
        "code": "timeout",
        "message": "no response within 0.2 s",
        "field": None,
    }


def test_started_response_has_no_timeout() -> None:
    async def slow_body(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.4)
        await send({"type": "http.response.body", "body": json.dumps("done").encode()})

    assert get(slow_body).json() == "done"


@pytest.mark.parametrize("url", [b"/predict", b"/predict/", b"/predict/?on_unreadable=absent"])
def test_prediction_beyond_the_queue_is_shed(url: bytes) -> None:
    async def shed() -> bytes | None:
        middleware = ServiceMiddleware(PlainTextResponse(""), get_settings())
        batcher: Batcher[Any, Any] = Batcher(list, 1, 1)
        batcher._computing = 2
        middleware.connect(AsyncMock(), batcher)
        assert middleware.shed(b"GET", url, [], ("127.0.0.1", 1)) is None
        return middleware.shed(b"POST", url, [(b"x-request-id", b"a")], ("127.0.0.1", 1))

    assert asyncio.run(shed()) == b"a"


def test_prediction_goes_to_the_connected_handler() -> None:
    submissions: list[Submission | Response] = []

    async def predict(submission: Submission | Response) -> Response:
        submissions.append(submission)
        return PlainTextResponse("predicted")

    middleware = ServiceMiddleware(PlainTextResponse("routed"), get_settings())
    client = TestClient(middleware, client=("127.0.0.1", 1))
    assert client.post("/predict", content=b"{}").text == "routed"
    middleware.connect(predict, Batcher(list, 1, 1))
    assert client.post("/predict", content=b"{}").text == "predicted"
    assert client.get("/predict").text == "routed"
    assert client.post("/predict/", content=b"{}").text == "predicted"
    [submission, _] = submissions
    assert isinstance(submission, Submission)
    assert submission.request.body == b"{}"
