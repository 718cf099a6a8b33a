"""A service under load, attacked, killed, stopped and replaced: nobody pays for another."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from serving.batching import SHORT_QUEUE_SECONDS

FORM = {"text": "seven"}


@pytest.fixture(scope="module")
def picture() -> bytes:
    """Takes little to send and half a second to decode and resize."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (6_000, 6_000), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def small_queue(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, workers=1, max_batch=1, queue=2) as server:
        server.wait()
        yield server


def url_of(server: Any) -> str:
    return str(server.client.base_url).rstrip("/")


def ask(server: Any, **request: Any) -> httpx.Response:
    return httpx.post(url_of(server) + "/predict", timeout=30, **request)


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


class TestOverload:
    def test_what_cannot_wait_is_refused_at_once_and_the_rest_answered(
        self, small_queue: Any, picture: bytes
    ) -> None:
        def act(_: int) -> tuple[httpx.Response, float]:
            started = time.monotonic()
            answer = ask(small_queue, files={"image": picture})
            return answer, time.monotonic() - started

        answers = at_once(12, act)
        counts = Counter(answer.status_code for answer, _ in answers)
        assert set(counts) == {200, 503}
        assert counts[200] >= 3
        refused = [(answer, seconds) for answer, seconds in answers if answer.status_code == 503]
        for answer, _ in refused:
            assert answer.json()["error"]["code"] == "overloaded"
            assert int(answer.headers["retry-after"]) >= 1
        assert ask(small_queue, data=FORM).status_code == 200

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
            busy = [pool.submit(ask, small_queue, files={"image": picture}) for _ in range(6)]
            wait_until(lambda: any(future.done() for future in busy))  # one was refused
            line.sendall(big % 1_000_000)
            # Before any of the body has come.
            refused = answer_on(line)
            line.sendall(b"x" * 1_000_000 + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_on(line).startswith(b"HTTP/1.1 200")
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
            server.wait()
            port = server.client.base_url.port
            lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
            for line in lines:
                line.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            answers = [ask(server, data=FORM, headers=key)]
            statuses = {answer_on(line).split()[1] for line in lines}
            for line in lines:
                line.close()
        assert statuses == {b"401"}
        assert [answer.status_code for answer in answers] == [200]

    def test_health_answers_while_all_is_full(self, small_queue: Any, picture: bytes) -> None:
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                ask(small_queue, files={"image": picture})

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
            assert all(ask(small_queue, data=FORM).status_code == 200 for _ in range(10))
        finally:
            for connection in slow:
                connection.close()

    def test_clients_that_leave_cost_nothing_more(self, small_queue: Any, picture: bytes) -> None:
        def leave(_: int) -> None:
            time.sleep(0.1)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    url_of(small_queue) + "/predict", data=FORM, timeout=httpx.Timeout(30, read=0.1)
                )

        # The tests before this one made the queue short.
        time.sleep(SHORT_QUEUE_SECONDS)
        predictions = 'dimml_predictions_total{subset="text"}'
        before = metric(small_queue, predictions)
        with ThreadPoolExecutor(3) as pool:
            computed = pool.submit(ask, small_queue, files={"image": picture})
            list(pool.map(leave, range(2)))
            assert computed.result().status_code == 200
        assert ask(small_queue, data=FORM).status_code == 200
        assert metric(small_queue, predictions) - before == 1


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def answer_on(line: socket.socket) -> bytes:
    """What comes next on a connection, whole for these short answers."""
    line.settimeout(10)
    return line.recv(65_536)


def metric(server: Any, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split()[0] == name)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_good_and_bad_requests_leave_no_file_and_no_descriptor(
    tiny_bundle: Path, open_server: Any
) -> None:
    with open_server(tiny_bundle, workers=1) as server:
        server.wait()
        [worker] = server.workers

        def act(number: int) -> None:
            ask(server, data=FORM)
            ask(server, files={"image": b"broken" * number, "audio": b"x" * 3_000_000})
            ask(server, files={"song": b"x"})

        at_once(8, act)
        before, files = worker.num_fds(), os.listdir(server.temporary)
        for _ in range(4):
            at_once(8, act)
        assert worker.num_fds() <= before + 2
        assert os.listdir(server.temporary) == files


class TestStopping:
    def test_sigterm_finishes_what_is_in_flight(
        self, tiny_bundle: Path, open_server: Any, picture: bytes
    ) -> None:
        with open_server(tiny_bundle) as server:
            server.wait()
            with ThreadPoolExecutor(6) as pool:
                asked = [pool.submit(ask, server, files={"image": picture}) for _ in range(6)]
                time.sleep(0.3)
                server.process.send_signal(signal.SIGTERM)
                answers = [future.result() for future in asked]
            assert [answer.status_code for answer in answers] == [200] * 6
            assert server.process.wait(timeout=30) == 0
            with pytest.raises(httpx.ConnectError):
                ask(server, data=FORM)

    def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(
        self, tiny_bundle: Path, open_server: Any
    ) -> None:
        with open_server(tiny_bundle) as server:
            server.wait()
            while len(server.workers) < 2 or ask(server, data=FORM).status_code != 200:
                time.sleep(0.1)
            victim = server.workers[0]
            outcomes: list[tuple[float, int | str]] = []
            killed = threading.Event()

            def act(_: int) -> None:
                for number in range(60):
                    if number == 20:
                        killed.wait(10)
                    try:
                        outcome: int | str = ask(server, data=FORM).status_code
                    except httpx.TransportError as error:
                        outcome = type(error).__name__
                    outcomes.append((time.monotonic(), outcome))

            threading.Timer(0.5, lambda: (victim.send_signal(signal.SIGKILL), killed.set())).start()
            at_once(8, act)
            counts = Counter(outcome for _, outcome in outcomes)
            assert counts.pop(200) >= 8 * 60 - 8
            assert not [outcome for outcome in counts if isinstance(outcome, int)]
            deadline = time.monotonic() + 30
            while len(server.workers) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert victim.pid not in {worker.pid for worker in server.workers}
            assert ask(server, data=FORM).status_code == 200


class TestReload:
    def test_a_new_bundle_behind_two_replicas_drops_no_request(
        self, tiny_bundle: Path, any_length_bundle: Path, open_server: Any
    ) -> None:
        """As docs/operations.md has it: replace one replica after the other, once it is ready."""
        with (
            open_server(tiny_bundle, workers=1) as first,
            open_server(tiny_bundle, workers=1) as second,
        ):
            first.wait()
            second.wait()
            replicas = [url_of(first), url_of(second)]
            bundles: list[str] = []
            stop = threading.Event()

            def balanced(number: int) -> None:
                while not stop.is_set():
                    bundles.append(_ask_one_of(replicas, number))
                    number += 1

            with ThreadPoolExecutor(4) as pool:
                running = [pool.submit(balanced, number) for number in range(4)]
                with open_server(any_length_bundle, workers=1) as third:
                    third.wait()
                    replicas[0] = url_of(third)
                    assert first.stop() == 0
                    with open_server(any_length_bundle, workers=1) as fourth:
                        fourth.wait()
                        replicas[1] = url_of(fourth)
                        assert second.stop() == 0
                        time.sleep(0.3)
                        stop.set()
                        for future in running:
                            future.result()
        assert {name.split("@")[0] for name in bundles} == {"tiny", "any_length"}
        assert bundles[-1].startswith("any_length@")


def _ask_one_of(replicas: list[str], number: int) -> str:
    """A load balancer in small: the next replica where one does not take the connection."""
    for turn in range(2):
        try:
            answer = httpx.post(replicas[(number + turn) % 2] + "/predict", data=FORM, timeout=30)
        except httpx.TransportError:
            continue
        assert answer.status_code == 200
        return str(json.loads(answer.text)["bundle"])
    raise AssertionError("no replica answered")
