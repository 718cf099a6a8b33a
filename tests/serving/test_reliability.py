"""A service under load, attacked, killed, stopped and replaced: nobody pays for another."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from tests.serving.server_requests import (
    TEXT_FORM,
    predict,
    run_concurrently,
    url_of,
)


@pytest.fixture(scope="module")
def picture() -> bytes:
    """Takes little to send and half a second to decode and resize."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (6_000, 6_000), "red").save(file, "PNG")
    return file.getvalue()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_good_and_bad_requests_leave_no_file_and_no_descriptor(
    tiny_bundle: Path, open_server: Any
) -> None:
    with open_server(tiny_bundle, workers=1) as server:
        server.wait_until_ready()
        [worker] = server.workers

        def act(number: int) -> None:
            predict(server, data=TEXT_FORM)
            predict(server, files={"image": b"broken" * number, "audio": b"x" * 3_000_000})
            predict(server, files={"song": b"x"})

        run_concurrently(8, act)
        before, files = worker.num_fds(), os.listdir(server.temporary)
        for _ in range(4):
            run_concurrently(8, act)
        assert worker.num_fds() <= before + 2
        assert os.listdir(server.temporary) == files


class TestStopping:
    def test_sigterm_finishes_what_is_in_flight(
        self, tiny_bundle: Path, open_server: Any, picture: bytes
    ) -> None:
        with open_server(tiny_bundle) as server:
            server.wait_until_ready()
            with ThreadPoolExecutor(6) as pool:
                asked = [pool.submit(predict, server, files={"image": picture}) for _ in range(6)]
                time.sleep(0.3)
                server.process.send_signal(signal.SIGTERM)
                answers = [future.result() for future in asked]
            assert [answer.status_code for answer in answers] == [200] * 6
            assert server.process.wait(timeout=30) == 0
            with pytest.raises(httpx.ConnectError):
                predict(server, data=TEXT_FORM)

    def test_a_killed_worker_is_replaced_and_only_its_own_requests_fail(
        self, tiny_bundle: Path, open_server: Any
    ) -> None:
        with open_server(tiny_bundle) as server:
            server.wait_until_ready()
            while len(server.workers) < 2 or predict(server, data=TEXT_FORM).status_code != 200:
                time.sleep(0.1)
            victim = server.workers[0]
            outcomes: list[tuple[float, int | str]] = []
            killed = threading.Event()

            def act(_: int) -> None:
                for number in range(60):
                    if number == 20:
                        killed.wait(10)
                    try:
                        outcome: int | str = predict(server, data=TEXT_FORM).status_code
                    except httpx.TransportError as error:
                        outcome = type(error).__name__
                    outcomes.append((time.monotonic(), outcome))

            threading.Timer(0.5, lambda: (victim.send_signal(signal.SIGKILL), killed.set())).start()
            run_concurrently(8, act)
            counts = Counter(outcome for _, outcome in outcomes)
            assert counts.pop(200) >= 8 * 60 - 8
            assert not [outcome for outcome in counts if isinstance(outcome, int)]
            deadline = time.monotonic() + 30
            while len(server.workers) < 2 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert victim.pid not in {worker.pid for worker in server.workers}
            assert predict(server, data=TEXT_FORM).status_code == 200


class TestReload:
    def test_a_new_bundle_behind_two_replicas_drops_no_request(
        self, tiny_bundle: Path, any_length_bundle: Path, open_server: Any
    ) -> None:
        """As docs/operations.md has it: replace one replica after the other, once it is ready."""
        with (
            open_server(tiny_bundle, workers=1) as first,
            open_server(tiny_bundle, workers=1) as second,
        ):
            first.wait_until_ready()
            second.wait_until_ready()
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
                    third.wait_until_ready()
                    replicas[0] = url_of(third)
                    assert first.stop() == 0
                    with open_server(any_length_bundle, workers=1) as fourth:
                        fourth.wait_until_ready()
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
            answer = httpx.post(
                replicas[(number + turn) % 2] + "/predict", data=TEXT_FORM, timeout=30
            )
        except httpx.TransportError:
            continue
        assert answer.status_code == 200
        return str(json.loads(answer.text)["bundle"])
    raise AssertionError("no replica answered")
