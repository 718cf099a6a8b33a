"""A service that is stopped, killed and replaced under load: no request is lost."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from tests.serving.server_requests import TEXT_FORM, predict, run_concurrently, url_of, wait_until


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_requests_leave_no_file_and_no_descriptor_open(tiny_bundle: Path, open_server: Any) -> None:
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


def test_sigterm_completes_the_requests_in_progress(tiny_bundle: Path, open_server: Any) -> None:
    file = io.BytesIO()
    PIL.Image.new("RGB", (6_000, 6_000), "red").save(file, "PNG")
    slow_image = file.getvalue()
    with open_server(tiny_bundle) as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(predict, server, files={"image": slow_image}) for _ in range(6)]
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            responses = [future.result() for future in futures]
        assert [response.status_code for response in responses] == [200] * 6
        assert server.process.wait(timeout=30) == 0
        with pytest.raises(httpx.ConnectError):
            predict(server, data=TEXT_FORM)


def test_killed_worker_is_replaced_and_only_its_requests_fail(
    tiny_bundle: Path, open_server: Any
) -> None:
    with open_server(tiny_bundle) as server:
        server.wait_until_ready()
        wait_until(lambda: len(server.workers) >= 2)
        wait_until(lambda: predict(server, data=TEXT_FORM).status_code == 200)
        victim = server.workers[0]
        outcomes: list[int | str] = []
        killed = threading.Event()

        def act(_: int) -> None:
            for number in range(60):
                if number == 20:
                    killed.wait(10)
                try:
                    outcomes.append(predict(server, data=TEXT_FORM).status_code)
                except httpx.TransportError as error:
                    outcomes.append(type(error).__name__)

        threading.Timer(0.5, lambda: (victim.send_signal(signal.SIGKILL), killed.set())).start()
        run_concurrently(8, act)
        counts = Counter(outcomes)
        # Each of the eight clients may lose the one request that the worker was answering.
        assert counts.pop(200) >= 8 * 60 - 8
        assert not [outcome for outcome in counts if isinstance(outcome, int)]
        wait_until(lambda: len(server.workers) >= 2)
        assert victim.pid not in {worker.pid for worker in server.workers}
        assert predict(server, data=TEXT_FORM).status_code == 200


@pytest.mark.slow("starts three servers and sends requests for 20 s")
def test_new_bundle_behind_two_replicas_drops_no_request(
    tiny_bundle: Path, any_length_bundle: Path, open_server: Any
) -> None:
    """Replace one replica after the other once it is ready, as docs/operations.md describes."""
    with ExitStack() as servers:

        def start(bundle: Path) -> Any:
            server = servers.enter_context(open_server(bundle, workers=1))
            server.wait_until_ready()
            return server

        first, second = start(tiny_bundle), start(tiny_bundle)
        replicas = [url_of(first), url_of(second)]
        with balanced_load(replicas) as bundles:
            replicas[0] = url_of(start(any_length_bundle))
            assert first.stop() == 0
            replicas[1] = url_of(start(any_length_bundle))
            assert second.stop() == 0
            time.sleep(0.3)
    assert {name.split("@")[0] for name in bundles} == {"tiny", "any_length"}
    assert bundles[-1].startswith("any_length@")


@contextmanager
def balanced_load(replicas: list[str]) -> Iterator[list[str]]:
    """Send requests to two replicas in turn from four threads, until the block ends.

    Args:
        replicas: URLs of the replicas, which the block may replace.

    Yields:
        The names of the bundles that answered, in order.

    Raises:
        AssertionError: If a request gets no prediction.
    """
    bundles: list[str] = []
    stop = threading.Event()

    def send(number: int) -> None:
        while not stop.is_set():
            bundles.append(predict_with_one_of(replicas, number))
            number += 1

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(send, number) for number in range(4)]
        try:
            yield bundles
        finally:
            stop.set()
        for future in futures:
            future.result()


def predict_with_one_of(replicas: list[str], number: int) -> str:
    """Return the name of the bundle that answers; try the next replica if a connection fails."""
    for attempt in range(2):
        url = replicas[(number + attempt) % 2] + "/predict"
        try:
            response = httpx.post(url, data=TEXT_FORM, timeout=30)
        except httpx.TransportError:
            continue
        assert response.status_code == 200
        return str(json.loads(response.text)["bundle"])
    raise AssertionError("no replica answered")
