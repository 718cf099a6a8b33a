"""A service with more requests than it can answer, and clients that are slow or leave."""

from __future__ import annotations

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from serving.batching import SHORT_QUEUE_SECONDS
from tests.serving.responses import metric_of
from tests.serving.server_requests import (
    TEXT_FORM,
    connect_to,
    predict,
    receive_response,
    run_concurrently,
    url_of,
    wait_until,
)


@pytest.fixture(scope="module")
def slow_image() -> bytes:
    """Return a small PNG that takes half a second to decode and resize."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (6_000, 6_000), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    """Run a service with one worker and a short queue."""
    with open_server(tiny_bundle, workers=1, max_batch=1, queue=2) as server:
        server.wait_until_ready()
        yield server


def test_requests_over_the_queue_are_refused_and_the_others_answered(
    server: Any, slow_image: bytes
) -> None:
    responses = run_concurrently(12, lambda _: predict(server, files={"image": slow_image}))
    counts = Counter(response.status_code for response in responses)
    assert set(counts) == {200, 503}
    assert counts[200] >= 3
    for response in responses:
        if response.status_code == 503:
            assert response.json()["error"]["code"] == "overloaded"
            assert int(response.headers["retry-after"]) >= 1
    assert predict(server, data=TEXT_FORM).status_code == 200


def test_refused_connection_stays_open_and_its_body_is_discarded(
    server: Any, slow_image: bytes
) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nContent-Length: %d\r\n\r\n"
    with ThreadPoolExecutor(6) as pool, connect_to(server) as connection:
        # The previous test may have shortened the queue.
        time.sleep(SHORT_QUEUE_SECONDS)
        busy = [pool.submit(predict, server, files={"image": slow_image}) for _ in range(6)]
        # The first response is a refusal: the service is full.
        wait_until(lambda: any(future.done() for future in busy))
        connection.sendall(head % 1_000_000)
        # The refusal arrives before any of the body is sent.
        refusal = receive_response(connection)
        connection.sendall(b"x" * 1_000_000 + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert receive_response(connection).startswith(b"HTTP/1.1 200")
        refusal_head, _, body = refusal.partition(b"\r\n\r\n")
        assert refusal_head.startswith(b"HTTP/1.1 503")
        assert b"x-request-id: mine" in refusal_head
        assert b"retry-after: 1" in refusal_head
        assert json.loads(body)["error"]["code"] == "overloaded"
        assert {future.result().status_code for future in busy} == {200, 503}
    records = [json.loads(row) for row in server.log().splitlines() if '"mine"' in row]
    assert [record["status"] for record in records] == [503]


def test_requests_without_a_key_take_no_place_in_the_queue(
    tiny_bundle: Path, open_server: Any
) -> None:
    key = {"x-api-key": "k" * 16}
    settings = {"workers": 1, "max_batch": 1, "queue": 1, "api_keys": "k" * 16}
    with open_server(tiny_bundle, **settings) as server:
        server.wait_until_ready()
        connections = [connect_to(server) for _ in range(60)]
        for connection in connections:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        response = predict(server, data=TEXT_FORM, headers=key)
        statuses = {receive_response(connection).split()[1] for connection in connections}
        for connection in connections:
            connection.close()
    assert statuses == {b"401"}
    assert response.status_code == 200


def test_health_answers_while_the_queue_is_full(server: Any, slow_image: bytes) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            predict(server, files={"image": slow_image})

    threads = [threading.Thread(target=flood) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        for _ in range(5):
            assert server.client.get("/livez", timeout=5).status_code == 200
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_slow_clients_occupy_no_worker(server: Any) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
    connections = [connect_to(server) for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(head + b"t")
        assert all(predict(server, data=TEXT_FORM).status_code == 200 for _ in range(10))
    finally:
        for connection in connections:
            connection.close()


def test_request_of_a_client_that_left_is_not_computed(server: Any, slow_image: bytes) -> None:
    def leave(_: int) -> None:
        time.sleep(0.1)
        timeout = httpx.Timeout(30, read=0.1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url_of(server) + "/predict", data=TEXT_FORM, timeout=timeout)

    # The previous tests shortened the queue.
    time.sleep(SHORT_QUEUE_SECONDS)
    predictions = 'dimml_predictions_total{subset="text"}'
    before = metric_of(server.client, predictions)
    with ThreadPoolExecutor(3) as pool:
        slow = pool.submit(predict, server, files={"image": slow_image})
        list(pool.map(leave, range(2)))
        assert slow.result().status_code == 200
    assert predict(server, data=TEXT_FORM).status_code == 200
    assert metric_of(server.client, predictions) - before == 1
