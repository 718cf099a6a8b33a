"""Requests of pages of other origins."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from starlette.testclient import TestClient

from serving.batching import Batcher
from serving.http.cors import Cors
from tests.serving.http.raw_requests import FORM, connect, post_with_length
from tests.serving.server_requests import predict, run_concurrently

KEY = "correct-horse-battery-staple"
ORIGIN, OTHER = "https://shop.example", "https://other.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


def allowed_origin(response: Any) -> str | None:
    return response.headers.get("access-control-allow-origin")


@pytest.fixture(scope="class")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    origins = f"{ORIGIN}, http://localhost:8080"
    settings = {"api_keys": KEY, "max_part_bytes": 100_000}
    with open_client(tiny_bundle, cors_origins=origins, **settings) as client:
        yield client


def post(client: TestClient, key: str = KEY, origin: str = ORIGIN, **options: Any) -> Any:
    return client.post("/predict", headers={"Origin": origin, "X-API-Key": key}, **options)


class TestAcceptedOrigins:
    def test_preflight_needs_no_key(self, client: TestClient) -> None:
        response = client.options("/predict", headers={"Origin": ORIGIN, **PREFLIGHT})
        assert (response.status_code, allowed_origin(response)) == (200, ORIGIN)
        assert "POST" in response.headers["access-control-allow-methods"]
        assert "authorization" in response.headers["access-control-allow-headers"]

    def test_preflight_of_another_origin_is_refused(self, client: TestClient) -> None:
        response = client.options("/predict", headers={"Origin": OTHER, **PREFLIGHT})
        assert (response.status_code, allowed_origin(response)) == (400, None)
        assert "DIMML_CORS_ORIGINS" in response.json()["error"]["message"]

    def test_every_answer_names_the_origin(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(*_: object) -> None:
            raise RuntimeError

        responses = [
            post(client, data={"text": "seven"}),
            post(client, key="x"),
            post(client, files={"image": b"x" * 100_001}),
            post(client, data={"song": "x"}),
        ]
        monkeypatch.setattr(Batcher, "submit", fail)
        responses.append(post(client, data={"text": "seven"}))
        assert [response.status_code for response in responses] == [200, 401, 413, 422, 500]
        for response in responses:
            assert allowed_origin(response) == ORIGIN
            exposed = response.headers["access-control-expose-headers"].lower()
            assert exposed == "x-request-id, retry-after"
            assert "Origin" in response.headers["vary"]

    def test_another_origin_is_answered_without_permission_to_read(
        self, client: TestClient
    ) -> None:
        response = post(client, key="x", origin=OTHER)
        assert (response.status_code, allowed_origin(response)) == (401, None)


def test_answer_over_the_rate_limit_names_the_origin(tiny_bundle: Path, open_client: Any) -> None:
    with open_client(tiny_bundle, cors_origins="*", rate_limit=0.01) as client:
        responses = [post(client, data={"text": "seven"}) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 429]
    assert [allowed_origin(response) for response in responses] == ["*", "*"]


def test_no_origin_is_named_by_default(tiny_bundle: Path, open_client: Any) -> None:
    with open_client(tiny_bundle) as client:
        response = post(client, data={"text": "seven"})
        assert (response.status_code, allowed_origin(response)) == (200, None)
        response = client.options("/predict", headers={"Origin": ORIGIN, **PREFLIGHT})
        assert (response.status_code, allowed_origin(response)) == (405, None)


def test_response_of_the_protocol_names_only_accepted_origins() -> None:
    async def app(*_: object) -> None: ...

    exposed = b"Access-Control-Expose-Headers: X-Request-Id, Retry-After"
    cors = Cors(app, [ORIGIN])
    assert cors.header_lines([]) == [b"vary: Origin"]
    assert cors.header_lines([(b"origin", OTHER.encode())]) == [b"vary: Origin", exposed]
    named = [b"vary: Origin", exposed, b"access-control-allow-origin: " + ORIGIN.encode()]
    assert cors.header_lines([(b"origin", ORIGIN.encode())]) == named
    lines = Cors(app, ["*"]).header_lines([(b"origin", b"\xff")])
    assert b"Access-Control-Allow-Origin: *" in lines


def test_refusals_by_the_protocol_and_timeouts_name_the_origin(
    tiny_bundle: Path, open_server: Any
) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (2_000, 2_000), "red").save(file, "PNG")
    settings = {"workers": 1, "max_batch": 1, "queue": 1, "timeout": 4, "cors_origins": "*"}
    with open_server(tiny_bundle, **settings) as server:
        server.wait_until_ready()
        headers = {"Origin": ORIGIN}
        responses = run_concurrently(
            12, lambda _: predict(server, files={"image": file.getvalue()}, headers=headers)
        )
        responses.append(predict(server, headers={**headers, "X": "y" * 70_000}))
        with connect(server) as connection:
            request = post_with_length(len(FORM) + 10)
            connection.sendall(request.replace(b"Host", b"Origin: https://shop.example\r\nHost"))
            timeout = connection.recv(10_000).lower()
    assert {response.status_code for response in responses} >= {200, 431, 503}
    assert {allowed_origin(response) for response in responses} == {"*"}
    assert b"504 gateway" in timeout
    assert b"access-control-allow-origin: *" in timeout
