"""Clients that send one request at a time, and record the status and latency of each answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.http.load import CONTENT_TYPE

CLIENTS = 4
REFUSED_PAUSE_SECONDS = 0.02


class Probe:
    """Sends the same request from several clients.

    Attributes:
        seconds: Latencies by status; the status is "error" for failed connections.
    """

    def __init__(self, url: str, body: bytes) -> None:
        self.seconds: dict[int | str, list[float]] = {}
        self._address = str(urlsplit(url).netloc)
        self._body = body
        self._stop = threading.Event()

    def percentile(self, status: int, share: float) -> float | None:
        """Return the milliseconds within which a share of the answers of a status arrived."""
        ordered = sorted(self.seconds.get(status, []))
        return round(1000 * ordered[int(share * (len(ordered) - 1))], 1) if ordered else None

    def counts(self) -> dict[str, int]:
        """Return the number of answers of each status."""
        return {str(status): len(seconds) for status, seconds in self.seconds.items()}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Send requests during the block."""
        threads = [threading.Thread(target=self._send_requests) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _send_requests(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        while not self._stop.is_set():
            started = time.perf_counter()
            status: int | str
            try:
                headers = {"Content-Type": CONTENT_TYPE}
                connection.request("POST", "/predict", self._body, headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = "error"
            self.seconds.setdefault(status, []).append(time.perf_counter() - started)
            # A refused client waits, although less than Retry-After asks for.
            time.sleep(REFUSED_PAUSE_SECONDS if status == 503 else 0.0)
