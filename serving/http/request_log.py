"""The request log: one JSON line per request on standard output, written by a separate thread."""

from __future__ import annotations

import contextlib
import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from serving.http.parsing import printable

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
FLUSH_SECONDS = 0.25
CLOSE_SECONDS = 5
"""Limit on the time for the last write, because standard output may be blocked."""

MAX_BUFFERED_RECORDS = 100_000
"""Records kept while standard output is blocked. Further records replace the oldest."""


def new_record(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the record of a new request, with the client's request id if it is well-formed."""
    client_id = headers.get(b"x-request-id", b"")
    is_valid = REQUEST_ID.fullmatch(client_id)
    return {
        "time": time.time(),
        "id": client_id.decode() if is_valid else f"{random.getrandbits(64):016x}",
        "client": scope["client"][0] if scope.get("client") else None,
        "method": printable(scope["method"]),
        "path": printable(scope["path"]),
    }


class RequestLog:
    """Buffer records in memory and write them in a thread, every `FLUSH_SECONDS`.

    Encoding and writing outside the event loop adds no latency to requests. A worker that is
    killed loses the records of its last `FLUSH_SECONDS`.
    """

    def __init__(self) -> None:
        self._buffer: deque[dict[str, Any]] = deque(maxlen=MAX_BUFFERED_RECORDS)
        self._lost = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def add(self, record: dict[str, Any]) -> None:
        """Add a record of plain JSON types. Its `time` is in seconds since 1970."""
        if len(self._buffer) == MAX_BUFFERED_RECORDS:
            self._lost += 1
        self._buffer.append(record)

    def close(self) -> None:
        """Write the buffered records and stop the thread."""
        self._stop.set()
        self._thread.join(timeout=CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._buffer.append({"lost_records": lost})
        lines = []
        while self._buffer:
            lines.append(orjson.dumps(_with_iso_time(self._buffer.popleft())))
        if lines:
            # The service goes on if standard output is closed or its disk is full.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write("".join(line.decode() + "\n" for line in lines))
                sys.stdout.flush()


def _with_iso_time(record: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(record.get("time", time.time()), UTC)
    return {**record, "time": moment.isoformat(timespec="milliseconds")}
