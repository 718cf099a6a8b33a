"""Malformed and ambiguous requests, as bytes: each has its documented responses."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.http.protocol import MAX_HEAD_BYTES, MAX_PIPELINED_REQUESTS
from tests.serving.http.raw_requests import (
    CHUNKED_HEADER,
    FORM,
    GET,
    POST_HEAD,
    connect,
    encode_chunk,
    parse_responses,
    post_with_chunks,
    post_with_length,
)
from tests.serving.responses import metric_of

MALFORMED = [(400, "invalid_request")]
TOO_LARGE = [(431, "too_large")]
ACCEPTED = [(200, None)]

# The headers of Java's HttpClient and of `curl --http2`.
H2C_HEADERS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
LENGTH_AND_CHUNKED = CHUNKED_HEADER + f"Content-Length: {len(FORM)}\r\n".encode()
REQUESTS: dict[str, tuple[bytes, list[tuple[int, str | None]]]] = {
    "Content-Length that fits": (post_with_length(len(FORM)), ACCEPTED),
    "Content-Length too small": (post_with_length(len(FORM) - 4), [(422, "invalid_request")]),
    "Content-Length below 0": (post_with_length(-5), MALFORMED),
    "Content-Length of 30 digits": (post_with_length("9" * 30), MALFORMED),
    "Content-Length +5": (post_with_length("+5"), MALFORMED),
    "Content-Length 5.0": (post_with_length("5.0"), MALFORMED),
    "Content-Length 0x5": (post_with_length("0x5"), MALFORMED),
    "Content-Length twice": (post_with_length(f"5\r\nContent-Length: {len(FORM)}"), MALFORMED),
    "Content-Length as a list": (post_with_length("5, 5"), MALFORMED),
    "chunks": (post_with_chunks(encode_chunk() + encode_chunk(b"")), ACCEPTED),
    "chunks and a trailer": (post_with_chunks(encode_chunk() + b"0\r\nX-a: b\r\n\r\n"), ACCEPTED),
    "Content-Length and chunks": (
        post_with_chunks(encode_chunk() + encode_chunk(b""), LENGTH_AND_CHUNKED),
        MALFORMED,
    ),
    "a request hidden behind chunks": (
        post_with_chunks(encode_chunk(b"") + GET, LENGTH_AND_CHUNKED),
        MALFORMED,
    ),
    "chunked, identity": (
        post_with_chunks(encode_chunk(b""), CHUNKED_HEADER[:-2] + b", identity\r\n"),
        MALFORMED,
    ),
    "Transfer-Encoding twice": (post_with_chunks(encode_chunk(b""), 2 * CHUNKED_HEADER), MALFORMED),
    "Transfer-Encoding : chunked": (
        post_with_chunks(encode_chunk(b""), CHUNKED_HEADER.replace(b":", b" :")),
        MALFORMED,
    ),
    "xchunked": (
        post_with_chunks(encode_chunk(b""), CHUNKED_HEADER.replace(b" ", b" x")),
        MALFORMED,
    ),
    "chunk size zz": (post_with_chunks(b"zz\r\n" + FORM), MALFORMED),
    "chunk size -1": (post_with_chunks(b"-1\r\n" + FORM), MALFORMED),
    "chunk size of 17 digits": (post_with_chunks(b"f" * 17 + b"\r\n"), MALFORMED),
    "chunk longer than its size": (post_with_chunks(b"3\r\n" + FORM), MALFORMED),
    "line feeds alone": (GET.replace(b"\r\n", b"\n"), MALFORMED),
    "folded header": (GET[:-2] + b"X: a\r\n b\r\n\r\n", MALFORMED),
    "null in a header": (GET[:-2] + b"X: a\0b\r\n\r\n", MALFORMED),
    "path not ASCII": (GET.replace(b"livez", b"\xff"), MALFORMED),
    "another protocol": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500), MALFORMED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    "an upgrade to HTTP/2 with a body": (
        POST_HEAD + H2C_HEADERS + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM,
        ACCEPTED,
    ),
    "an upgrade to HTTP/2 with chunks": (
        post_with_chunks(encode_chunk() + encode_chunk(b""), H2C_HEADERS + CHUNKED_HEADER),
        ACCEPTED,
    ),
    "an upgrade and two lengths": (
        POST_HEAD + H2C_HEADERS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        MALFORMED,
    ),
    "CONNECT with an upgrade": (
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n" + H2C_HEADERS + b"\r\n",
        MALFORMED,
    ),
    "a WebSocket": (
        GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "
        b"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        ACCEPTED,
    ),
    "pipelined": (GET * MAX_PIPELINED_REQUESTS, ACCEPTED * MAX_PIPELINED_REQUESTS),
    "pipelined with bodies": (2 * (post_with_length(len(FORM)) + GET), 4 * ACCEPTED),
    "long URL": (GET.replace(b"livez", b"a" * MAX_HEAD_BYTES), TOO_LARGE),
    "10,000 headers": (GET[:-2] + b"X-a: b\r\n" * 10_000 + b"\r\n", TOO_LARGE),
    "headers up to the limit": (GET[:-2] + b"X-a: b\r\n" * 7_000 + b"\r\n", ACCEPTED),
}


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, workers=1, timeout=2) as server:
        server.wait_until_ready()
        yield server


def exchange(server: Any, *pieces: bytes, pause: float = 0) -> list[tuple[int, str | None]]:
    """Send bytes and return the responses that arrive until the server closes the connection."""
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65_536):
                received += block
    return parse_responses(received)


@pytest.mark.parametrize(("request_bytes", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_raw_request_has_its_responses_and_the_service_continues(
    server: Any, request_bytes: bytes, expected: list[tuple[int, str | None]]
) -> None:
    # The last request asks for the end of the connection, so that its responses are complete.
    last = request_bytes.rfind(b"Host: a\r\n")
    request = request_bytes[:last] + b"Connection: close\r\n" + request_bytes[last:]
    request = request if last > 0 and b"websocket" not in request else request_bytes
    assert exchange(server, request) == expected
    assert server.client.post("/predict", data={"text": "seven"}).status_code == 200


def h2c_requests() -> bytes:
    """Return two requests with a body that ask for HTTP/2, then one that ends the connection."""
    with_length = POST_HEAD + H2C_HEADERS + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM
    chunks = encode_chunk(FORM[:9]) + encode_chunk(FORM[9:]) + b"0\r\nUpgrade: h2c\r\n\r\n"
    with_chunks = post_with_chunks(chunks, H2C_HEADERS + CHUNKED_HEADER)
    return with_length + with_chunks + GET.replace(b"Host", b"Connection: close\r\nHost")


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
def test_requests_with_upgrades_are_answered_however_they_are_split(server: Any, size: int) -> None:
    requests = h2c_requests()
    pieces = [requests[start : start + size] for start in range(0, len(requests), size)]
    assert exchange(server, *pieces) == 3 * ACCEPTED


def test_body_after_an_upgrade_may_arrive_later(server: Any) -> None:
    head, body = POST_HEAD + H2C_HEADERS + b"Content-Length: %d\r\n\r\n" % len(FORM), FORM
    for pieces in ([head[:-1], head[-1:] + body], [head, body], [head + body[:1], body[1:]]):
        last = GET.replace(b"Host", b"Connection: close\r\nHost")
        assert exchange(server, *pieces, last, pause=0.05) == 2 * ACCEPTED


def test_upgrade_does_not_lift_the_limit_of_pipelined_requests(server: Any) -> None:
    request = POST_HEAD + H2C_HEADERS + b"Content-Length: %d\r\n\r\n" % len(FORM) + FORM
    responses = exchange(server, request * (MAX_PIPELINED_REQUESTS + 2))
    assert responses[-1] == (400, "invalid_request")


def test_upgrade_does_not_lift_the_limit_of_the_head(server: Any) -> None:
    head = GET[:-2] + H2C_HEADERS + b"X-a: b\r\n" * 10_000
    assert exchange(server, head + b"\r\n") == TOO_LARGE


def test_raw_requests_are_documented(documented_responses: Any) -> None:
    first_responses = {name: responses[0] for name, (_, responses) in REQUESTS.items()}
    assert documented_responses("HTTP") == first_responses


@pytest.mark.parametrize(
    "request_bytes", [post_with_length(len(FORM) + 10), post_with_length(10**18)]
)
def test_incomplete_body_is_a_timeout(server: Any, request_bytes: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(request_bytes)
        received = b""
        # The head and the body of a response may arrive separately.
        while b"}}" not in received and (piece := connection.recv(65_536)):
            received += piece
        assert parse_responses(received) == [(504, "timeout")]


def test_clients_that_disconnect_early_cause_no_traceback(server: Any) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(2 * post_with_length(len(FORM)))
    assert server.client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()


def test_requests_rejected_by_the_parser_are_counted(server: Any) -> None:
    count = 'dimml_requests_total{status="431"}'
    before = metric_of(server.client, count)
    with connect(server) as connection:
        connection.sendall(GET.replace(b"livez", b"a" * MAX_HEAD_BYTES))
        connection.recv(1000)
    assert metric_of(server.client, count) == before + 1
