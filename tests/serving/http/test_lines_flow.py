"""Requests of JSON lines while they are sent: waiting, stalled and leaving clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import InputError
from serving.batching import Batcher
from serving.http.lines import LinesPredictor
from serving.pipeline import PipelineResult
from serving.settings import Settings
from tests.serving.http.line_requests import codes_of, encode_lines, post
from tests.serving.http.raw_requests import connect, encode_chunk
from tests.serving.responses import metric_of
from tests.serving.server_requests import TEXT_FORM, predict, wait_until

TEXTS = ["seven", "two", "one two three", "eight"]
HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    """Run a service with one worker, small batches and one request in the queue."""
    with open_server(tiny_bundle, workers=1, max_batch=4, queue=1, timeout=3) as server:
        server.wait_until_ready()
        yield server


def receive_until(connection: socket.socket, end: bytes) -> bytes:
    connection.settimeout(20)
    received = b""
    while end not in received:
        block = connection.recv(65_536)
        assert block
        received += block
    return received


def test_answer_arrives_before_the_next_line_is_sent(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD)
        for text in TEXTS:
            connection.sendall(encode_chunk(encode_lines({"text": text})))
            assert b'"label"' in receive_until(connection, b'"bundle"')
        connection.sendall(b"0\r\n\r\n")
        receive_until(connection, b"0\r\n\r\n")
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in receive_until(connection, b"\r\n\r\n")


def test_lines_wait_for_a_full_queue_and_single_requests_are_answered_meanwhile(
    server: Any,
) -> None:
    content, responses = encode_lines(*[{"text": "two"}] * 600), []
    thread = threading.Thread(target=lambda: responses.append(post(server.client, content)))
    thread.start()
    wait_until(lambda: bool(metric_of(server.client, 'dimml_lines_total{code="ok"}')))
    singles = [predict(server, data=TEXT_FORM).status_code for _ in range(20)]
    thread.join()
    assert codes_of(responses[0]) == [None] * 600
    assert singles == [200] * 20


def test_only_so_many_requests_of_lines_run_at_once(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + encode_chunk(encode_lines({"text": "two"})))
        receive_until(connection, b'"bundle"')
        response = post(server.client, encode_lines({"text": "two"}))
        assert response.status_code == 503
        assert response.headers["retry-after"]
    wait_until(lambda: post(server.client, b"").status_code == 200)


def test_client_that_leaves_stops_the_work(server: Any) -> None:
    count = 'dimml_lines_total{code="ok"}'
    before = metric_of(server.client, count)
    with connect(server) as connection:
        connection.sendall(HEAD + encode_chunk(encode_lines(*[{"text": "two"}] * 20_000)))
        receive_until(connection, b'"bundle"')
    wait_until(lambda: post(server.client, b"").status_code == 200)
    after = metric_of(server.client, count)
    assert after - before < 15_000
    assert predict(server, data=TEXT_FORM).status_code == 200
    assert metric_of(server.client, count) == after
    assert "Traceback" not in server.log()


def test_client_that_stops_sending_gets_an_error_on_the_last_line(server: Any) -> None:
    with connect(server) as connection:
        connection.sendall(HEAD + encode_chunk(encode_lines({"text": "two"}) + b'{"text"'))
        received = receive_until(connection, b"0\r\n\r\n")
    assert received.count(b'"bundle"') == 1
    assert b'{"error":{"code":"timeout"' in received


def answer_all(items: Sequence[Any]) -> list[PipelineResult]:
    return [PipelineResult(InputError("no_modality", "x" * 1_000), {}) for _ in items]


def run_exchange(send: Callable[[Any], Awaitable[None]], receive: Any, **settings: Any) -> None:
    """Answer one request of lines without a service."""
    batcher: Batcher[Any, PipelineResult] = Batcher(answer_all, 4, 4)
    predictor = LinesPredictor(batcher, Settings(**settings), 1)
    scope = {"type": "http", "headers": [], "query_string": b"", "method": "POST", "path": "/"}
    asyncio.run(predictor(scope, receive, send))
    batcher.close()


def test_client_may_send_all_lines_before_it_reads() -> None:
    is_sent = asyncio.Event()
    remaining = 200
    received: list[bytes] = []

    async def receive() -> dict[str, Any]:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            await asyncio.Event().wait()
        if not remaining:
            is_sent.set()
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"{}\n", "more_body": remaining > 0}

    async def send(message: Any) -> None:
        await is_sent.wait()
        received.append(message.get("body", b""))

    # Sending takes a second, in which no answer is taken.
    run_exchange(send, receive, timeout=0.5)
    assert b"".join(received).count(b"no_modality") == 200


def test_client_that_reads_nothing_is_cut_off_and_its_answers_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.http.lines.MAX_UNSENT_BYTES", 10_000)
    lines = 0

    async def receive() -> dict[str, Any]:
        nonlocal lines
        lines += 1
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"{}\n", "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    run_exchange(send, receive, timeout=0.3)
    # Ten answers wait, beside those of the lines in work.
    assert 10 <= lines <= 25


def test_client_that_leaves_in_its_body_stops_the_work() -> None:
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": b"{}\n{}\n", "more_body": True}]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    run_exchange(send, receive)
    assert sum(message.get("body", b"").count(b"no_modality") for message in sent) == 2
    assert sent[-1]["more_body"]
