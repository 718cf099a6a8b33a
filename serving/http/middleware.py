"""The outermost layer of every request: admission, time limit, errors, counts and a log line."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dimml.errors import InputError
from serving.batching import Batcher
from serving.http.admission import Admission
from serving.http.errors import RATE_EXCEEDED, RETRY_AFTER_SECONDS, status_body
from serving.http.messages import RECORD, PredictRequest, Submission
from serving.http.parsing import printable
from serving.http.request_log import RequestLog, new_record
from serving.metrics import LATENCY, REQUESTS
from serving.settings import Settings

logger = logging.getLogger("bentoml.dimml")

HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
"""Answered to every client at any time, and neither counted nor logged."""

CLOSE_EVERY_REQUESTS = 8
BUSY_REQUESTS = 3
"""Requests in flight above which some answers close their connection."""

PredictHandler = Callable[[Submission | InputError | None], Awaitable[Response]]
_KEPT_HEADERS = (b"allow", b"retry-after", b"www-authenticate")


class ServiceMiddleware:
    """Wraps the application that BentoML builds.

    `POST /predict` does not go through that application: BentoML's router takes a third of the time
    of a small request. The middleware reads the request with the same `PredictRequest`, and calls
    the same handler, as BentoML would. The service hands both over when it starts, see `open`.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.admission = Admission(settings)
        self._timeout_seconds = settings.timeout
        self._rate_limit = settings.rate_limit
        self._has_log = settings.request_log
        self._predict: PredictHandler | None = None
        self._in_flight = 0
        self._started = 0

    def open(self, predict: PredictHandler, batcher: Batcher[Any, Any]) -> None:
        """Take the handler and the queue of predictions from the service, which has started."""
        self._predict = predict
        self.admission.batcher = batcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        record = scope[RECORD] = new_record(scope, headers)
        reply = _Reply(scope, send, self._timeout_seconds)
        self._in_flight += 1
        try:
            if not await self._refuse(scope, headers, reply):
                await self._run(scope, receive, reply)
        except Exception:
            logger.exception("request %s failed", record["id"])
            await reply.fail(500)
        finally:
            self._in_flight -= 1
            self._count(reply, record, time.perf_counter() - started)

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        log = self.admission.log = RequestLog() if self._has_log else None
        try:
            await self.app(scope, receive, send)
        finally:
            if log:
                log.close()

    async def _refuse(self, scope: Scope, headers: dict[bytes, bytes], reply: _Reply) -> bool:
        """Answer a request without a key, or over the rate limit, before its body is read."""
        client = scope.get("client")
        key, problem = self.admission.check_key(headers, client)
        if problem is not None:
            challenge = [(b"www-authenticate", b"Bearer")]
            await reply.refuse(401, status_body(401, problem), challenge)
            return True
        if (seconds := self.admission.seconds_to_wait(key, client)) > 0:
            body = status_body(429, RATE_EXCEEDED, rate=self._rate_limit, seconds=seconds)
            await reply.refuse(429, body, [_retry_after(math.ceil(seconds))])
            return True
        return False

    async def _run(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        # Workers share one listening socket, so a burst of connections can land on one of them;
        # clients whose connection closes connect again, perhaps to another worker.
        self._started += 1
        is_busy = self._in_flight > BUSY_REQUESTS
        reply.closes = is_busy and self._started % CLOSE_EVERY_REQUESTS == 0
        is_prediction = scope["path"] == "/predict" and scope["method"] == "POST"
        try:
            async with asyncio.timeout(self._timeout_seconds) as limit:
                reply.limit = limit
                if is_prediction and self._predict is not None:
                    request = Request(scope, receive)
                    submission = await PredictRequest.from_http_request(request, None)
                    response = await self._predict(submission)
                    await response(scope, receive, reply.send)
                else:
                    await self.app(scope, receive, reply.send)
        except TimeoutError:
            if not limit.expired():
                raise
            await reply.fail(504)

    def _count(self, reply: _Reply, record: dict[str, Any], seconds: float) -> None:
        if not reply.status:
            return
        REQUESTS.labels(reply.status).inc()
        LATENCY.observe(seconds)
        if self.admission.log:
            record["status"] = reply.status
            record["ms"] = round(1000 * seconds, 3)
            record["bytes_out"] = reply.bytes
            self.admission.log.add(record)


class _Reply:
    """The messages of one answer: successes pass, and errors of other code get our shape."""

    def __init__(self, scope: Scope, send: Send, timeout_seconds: float) -> None:
        self.limit: asyncio.Timeout | None = None
        self.status = 0
        self.bytes = 0
        self.closes = False
        self._scope = scope
        self._send = send
        self._timeout_seconds = timeout_seconds
        self._is_finished = False
        self._error_start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Take one message of the application."""
        if self._is_finished:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= 400:
                # The body decides whether the error has our shape already.
                self._error_start = message
                return
            await self._start(message)
            return
        if self._error_start is None:
            self.bytes += len(message.get("body", b""))
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            await self._send_error(self._error_start)

    async def refuse(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer an error without calling the application."""
        self.status, self._body = status, body
        all_headers = [*headers, *_content_headers(body)]
        start = {"type": "http.response.start", "status": status, "headers": all_headers}
        await self._send_error(start)

    async def fail(self, status: int) -> None:
        """Answer an error in place of the application, unless its answer has begun."""
        if self._is_finished or (self.status and self._error_start is None):
            return
        self.status, self._body = status, b""
        await self._send_error({"type": "http.response.start", "status": status, "headers": []})

    async def _start(self, message: Message) -> None:
        if self.limit:
            # The time limit is for the start of an answer, not for sending all of it.
            self.limit.reschedule(None)
        headers = [*message["headers"], (b"x-request-id", self._scope[RECORD]["id"].encode())]
        if self.closes:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _send_error(self, start: Message) -> None:
        self._is_finished = True
        self.limit = None
        if not _has_our_shape(self._body):
            self._body = status_body(
                self.status,
                path=printable(self._scope["path"]),
                method=printable(self._scope["method"]),
                limit=self._timeout_seconds,
            )
            headers = [*_kept_headers(start, self.status), *_content_headers(self._body)]
            start = {**start, "headers": headers}
        self.bytes = len(self._body)
        await self._start(start)
        await self._send({"type": "http.response.body", "body": self._body})


def _retry_after(seconds: int) -> tuple[bytes, bytes]:
    return (b"retry-after", str(seconds).encode())


def _has_our_shape(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and "code" in error


def _kept_headers(start: Message, status: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in start["headers"] if name.lower() in _KEPT_HEADERS]
    if status in (429, 503) and b"retry-after" not in dict(kept):
        kept.append(_retry_after(RETRY_AFTER_SECONDS))
    return kept


def _content_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", str(len(body)).encode())
    return [length, (b"content-type", b"application/json")]
