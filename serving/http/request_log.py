"""One JSON line per request on standard output, written off the hot path."""

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
MAX_HELD = 100_000
"""Lines kept while standard output does not take them; then the oldest are lost, and counted."""


def new_record(scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What is known of a request as it comes; its id is the client's, if that gave a plain one."""
    given = headers.get(b"x-request-id", b"")
    return {
        "time": time.time(),
        "id": given.decode() if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}",
        "client": scope["client"][0] if scope.get("client") else None,
        "method": printable(scope["method"]),
        "path": printable(scope["path"]),
    }


class RequestLog:
    """Takes records at once, and lets a thread encode and write them a moment later.

    A worker that is killed loses the records of its last quarter of a second.
    """

    def __init__(self) -> None:
        self._held: deque[dict[str, Any]] = deque(maxlen=MAX_HELD)
        self._lost = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def add(self, record: dict[str, Any]) -> None:
        """Takes a record of plain JSON types; its `time` is in seconds since 1970."""
        if len(self._held) == MAX_HELD:
            self._lost += 1
        self._held.append(record)

    def close(self) -> None:
        """Writes what is held, and ends the thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            self._held.append({"lost_records": lost})
        lines = []
        while self._held:
            lines.append(orjson.dumps(_readable(self._held.popleft())))
        if lines:
            # A closed pipe or a full disk must not end the service.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write("".join(line.decode() + "\n" for line in lines))
                sys.stdout.flush()


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    moment = datetime.fromtimestamp(record["time"], UTC) if "time" in record else datetime.now(UTC)
    return {**record, "time": moment.isoformat(timespec="milliseconds")}
