"""Refuses predictions that could not wait, as soon as their head has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from bentoml import get_current_service

from serving.http.messages import OVERLOADED, RETRY_AFTER_SECONDS, error_body
from serving.http.request_log import RequestLog, new_record
from serving.metrics import REQUESTS

Client = tuple[str, int] | None
Headers = Sequence[tuple[bytes, bytes]]
MayAsk = Callable[[Mapping[bytes, bytes], Client], bool]

_BODY = error_body("overloaded", OVERLOADED)
_HEADERS = (
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"retry-after", str(RETRY_AFTER_SECONDS).encode()),
)
_COUNT = REQUESTS.labels(503)


class Shedder:
    """Answers for the application while its queue is full.

    Building a task, a scope and a response for each request of a flood would take the processor
    from those that were accepted; this takes a small part of that. While the queue is full it comes
    before keys and rate limits, which cost more.

    Args:
        log: where requests are logged, once there is one.
        may_ask: whether a client with these headers has the key that it needs. One that has not
            takes nobody's place.
    """

    def __init__(self, log: Callable[[], RequestLog | None], may_ask: MayAsk) -> None:
        self._log = log
        self._may_ask = may_ask
        self._admitted = 0

    def __call__(
        self, method: bytes, url: bytes, headers: Headers, client: Client
    ) -> tuple[Headers, bytes] | None:
        """The headers and body of a 503; None where the application is to answer."""
        if method != b"POST" or url.partition(b"?")[0] != b"/predict":
            return None
        if not self._is_full(headers, client):
            return None
        scope = {"client": client, "method": "POST", "path": "/predict"}
        record = new_record(scope, dict(headers))
        _COUNT.inc()
        if log := self._log():
            log.add({**record, "status": 503})
        return (*_HEADERS, (b"x-request-id", record["id"].encode())), _BODY

    def _is_full(self, headers: Headers, client: Client) -> bool:
        service = get_current_service()
        if service is None:
            return False
        room = service.batcher.room
        if room > 0 and not self._may_ask(dict(headers), client):
            return False
        if self._admitted >= room:
            service.batcher.note_refusal()
            return True
        # What has come at once is admitted before the first of it is queued: that is done by its
        # task, which runs in the next turn of the loop, right after `_settle`.
        self._admitted += 1
        asyncio.get_running_loop().call_soon(self._settle)
        return False

    def _settle(self) -> None:
        self._admitted -= 1
