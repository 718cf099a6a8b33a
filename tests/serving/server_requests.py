"""Requests to a service in another process, many at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

TEXT_FORM = {"text": "seven"}


def url_of(server: Any) -> str:
    return str(server.client.base_url).rstrip("/")


def predict(server: Any, **options: Any) -> httpx.Response:
    """Send a request for a prediction on a connection of its own."""
    return httpx.post(url_of(server) + "/predict", timeout=30, **options)


def run_concurrently(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Call a function with the numbers up to `count`, each in its own thread."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail after 30 seconds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def connect_to(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.client.base_url.port))


def receive_response(connection: socket.socket) -> bytes:
    """Return the next response of a connection; a short response arrives in one piece."""
    connection.settimeout(10)
    return connection.recv(65_536)
