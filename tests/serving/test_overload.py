"""A service under load, attacked, killed, stopped and replaced: nobody pays for another."""

from __future__ import annotations

import io
import json
import socket
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
    predict,
    receive_response,
    run_concurrently,
    url_of,
    wait_until,
)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """Takes little to send and half a second to decode and resize."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (6_000, 6_000), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def small_queue(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, workers=1, max_batch=1, queue=2) as server:
        server.wait_until_ready()
        yield server


class TestOverload:
    def test_what_cannot_wait_is_refused_at_once_and_the_rest_answered(
        self, small_queue: Any, picture: bytes
    ) -> None:
        def act(_: int) -> tuple[httpx.Response, float]:
            started = time.monotonic()
            answer = predict(small_queue, files={"image": picture})
            return answer, time.monotonic() - started

        answers = run_concurrently(12, act)
        counts = Counter(answer.status_code for answer, _ in answers)
        assert set(counts) == {200, 503}
        assert counts[200] >= 3
        refused = [(answer, seconds) for answer, seconds in answers if answer.status_code == 503]
        for answer, _ in refused:
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
        assert predict(small_queue, data=TEXT_FORM).status_code == 200

    def test_a_refused_connection_goes_on_and_its_body_is_dropped(
        self, small_queue: Any, picture: bytes
    ) -> None:
        port = small_queue.client.base_url.port
        big = (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nContent-Length: %d\r\n\r\n"
        )
        with ThreadPoolExecutor(6) as pool, socket.create_connection(("127.0.0.1", port)) as line:
            # The test before this one may have made the queue short.
            time.sleep(SHORT_QUEUE_SECONDS)
            busy = [pool.submit(predict, small_queue, files={"image": picture}) for _ in range(6)]
            wait_until(lambda: any(future.done() for future in busy))  # one was refused
            line.sendall(big % 1_000_000)
            # Before any of the body has come.
            refused = receive_response(line)
            line.sendall(b"x" * 1_000_000 + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert receive_response(line).startswith(b"HTTP/1.1 200")
            head, _, body = refused.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert b"x-request-id: mine" in head
            assert b"retry-after: 1" in head
            assert json.loads(body)["error"]["code"] == "overloaded"
            assert {future.result().status_code for future in busy} == {200, 503}
        records = [json.loads(row) for row in small_queue.log().splitlines() if '"mine"' in row]
        assert [record["status"] for record in records] == [503]

    def test_who_has_no_key_takes_nobody_s_place(self, tiny_bundle: Path, open_server: Any) -> None:
        key = {"x-api-key": "k" * 16}
        settings = {"workers": 1, "max_batch": 1, "queue": 1, "api_keys": "k" * 16}
        with open_server(tiny_bundle, **settings) as server:
            server.wait_until_ready()
            port = server.client.base_url.port
            lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
            for line in lines:
                line.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            answers = [predict(server, data=TEXT_FORM, headers=key)]
            statuses = {receive_response(line).split()[1] for line in lines}
            for line in lines:
                line.close()
        assert statuses == {b"401"}
        assert [answer.status_code for answer in answers] == [200]

    def test_health_answers_while_all_is_full(self, small_queue: Any, picture: bytes) -> None:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                predict(small_queue, files={"image": picture})

        floods = [threading.Thread(target=flood) for _ in range(6)]
        for thread in floods:
            thread.start()
        try:
            time.sleep(0.5)
            for _ in range(5):
                assert small_queue.client.get("/livez", timeout=5).status_code == 200
        finally:
            stop.set()
            for thread in floods:
                thread.join()

    def test_slow_clients_hold_no_worker(self, small_queue: Any) -> None:
        port = small_queue.client.base_url.port
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        try:
            for connection in slow:
                connection.sendall(head + b"t")
            assert all(predict(small_queue, data=TEXT_FORM).status_code == 200 for _ in range(10))
        finally:
            for connection in slow:
                connection.close()

    def test_clients_that_leave_cost_nothing_more(self, small_queue: Any, picture: bytes) -> None:
        def leave(_: int) -> None:
            time.sleep(0.1)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    url_of(small_queue) + "/predict",
                    data=TEXT_FORM,
                    timeout=httpx.Timeout(30, read=0.1),
                )

        # The tests before this one made the queue short.
        time.sleep(SHORT_QUEUE_SECONDS)
        predictions = 'dimml_predictions_total{subset="text"}'
        before = metric_of(small_queue.client, predictions)
        with ThreadPoolExecutor(3) as pool:
            computed = pool.submit(predict, small_queue, files={"image": picture})
            list(pool.map(leave, range(2)))
            assert computed.result().status_code == 200
        assert predict(small_queue, data=TEXT_FORM).status_code == 200
        assert metric_of(small_queue.client, predictions) - before == 1
