"""Requests to a service in another process, many at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

FORM = {"text": "seven"}


def url_of(server: Any) -> str:
    return str(server.client.base_url).rstrip("/")


def ask(server: Any, **request: Any) -> httpx.Response:
    return httpx.post(url_of(server) + "/predict", timeout=30, **request)


def at_once(count: int, act: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, range(count)))


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
