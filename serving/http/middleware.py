"""Around every request: who may ask, a time limit, errors in our shape, counts and a log line."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from bentoml import get_current_service
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.admission import Keys, RateLimit, digest, is_loopback, key_of
from serving.http.errors import MIN_ERROR_STATUS, HttpError, find_error
from serving.http.messages import RECORD, PredictRequest
from serving.http.parsing import printable
from serving.http.request_log import RequestLog, new_record
from serving.metrics import LATENCY, REQUESTS
from serving.settings import Settings, get_settings

logger = logging.getLogger("bentoml.dimml")

HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
"""Answered to anybody at any time, and neither counted nor logged."""

CLOSE_EVERY = 8
BUSY = 3
_KEPT_HEADERS = ("allow", "retry-after", "www-authenticate")


class ServiceMiddleware:
    """Wraps the application that BentoML builds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.settings = get_settings()
        self.keys = Keys(self.settings)
        self.rate_limit = _rate_limit(self.settings)
        self.log: RequestLog | None = None
        self.in_flight = 0
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        record = scope[RECORD] = new_record(scope, headers)
        answer = _Answer(scope, send, self.settings.timeout)
        self.in_flight += 1
        try:
            refusal = self._refuse(scope, headers)
            if refusal is not None:
                await refusal(scope, receive, answer.send)
            else:
                await self._run(scope, receive, answer)
        except Exception:
            logger.exception("request %s failed", record["id"])
            await answer.fail(HttpError.INTERNAL)
        finally:
            self.in_flight -= 1
            seconds = time.perf_counter() - started
            self._count(answer, record, seconds)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.log = RequestLog() if self.settings.request_log else None
        try:
            await self.app(scope, receive, send)
        finally:
            if self.log:
                self.log.close()

    def _refuse(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        """Return the response to a client without its key or over its rate; None for others."""
        key = self._key(headers, scope.get("client"))
        if isinstance(key, HttpError):
            return key.response()
        if self.rate_limit is None:
            return None
        wait = self.rate_limit.wait(key or _digest_of_client(scope))
        if wait <= 0:
            return None
        return HttpError.RATE_LIMITED.response(
            f"over {self.settings.rate_limit:g} requests per second; wait {wait:.1f} s",
            headers={"retry-after": str(math.ceil(wait))},
        )

    def may_ask(self, headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> bool:
        """Whether a client has the key that it needs, if it needs one."""
        return not isinstance(self._key(headers, client), HttpError)

    def _key(
        self, headers: Mapping[bytes, bytes], client: tuple[str, int] | None
    ) -> bytes | HttpError | None:
        """Return the digest of a client's key, or why the client is not answered."""
        key = key_of(headers)
        key_digest = self.keys.find(key) if key is not None else None
        if self.keys.are_set and key_digest is None:
            return HttpError.KEY_MISSING if key is None else HttpError.KEY_REJECTED
        if not (self.keys.are_set or self.settings.allow_anonymous or is_loopback(client)):
            return HttpError.REMOTE_CLIENT
        return key_digest

    async def _run(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        # Workers share one listening socket, and a burst of connections can land on one of them.
        self.begun += 1
        answer.closes = self.in_flight > BUSY and self.begun % CLOSE_EVERY == 0
        try:
            async with asyncio.timeout(self.settings.timeout) as limit:
                answer.limit = limit
                is_prediction = scope["path"] == "/predict" and scope["method"] == "POST"
                app = _predict if is_prediction else self.app
                await app(scope, receive, answer.send)
        except TimeoutError:
            if not limit.expired():
                raise
            await answer.fail(HttpError.TIMEOUT)

    def _count(self, answer: _Answer, record: dict[str, Any], seconds: float) -> None:
        if not answer.status:
            return
        REQUESTS.labels(answer.status).inc()
        LATENCY.observe(seconds)
        if self.log:
            record["status"] = answer.status
            record["ms"] = round(1000 * seconds, 3)
            record["bytes_out"] = answer.bytes
            self.log.add(record)


class _Answer:
    """The messages of one answer: successes pass, errors that are not ours are put in our shape."""

    def __init__(self, scope: Scope, send: Send, timeout: float) -> None:
        self.limit: asyncio.Timeout | None = None
        self.status = 0
        self.bytes = 0
        self.closes = False
        self._scope = scope
        self._send = send
        self._timeout = timeout
        self._finished = False
        self._held: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Takes one message of the application."""
        if self._finished:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.status >= MIN_ERROR_STATUS:
                self._held = message
                return
            await self._start(message)
            return
        if self._held is None:
            self.bytes += len(message.get("body", b""))
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            await self._send_error(self._held)

    async def fail(self, error: HttpError) -> None:
        """Answers in place of the application, unless it has begun to."""
        if self._finished or (self.status and self._held is None):
            return
        self.status, self._body = error.status, b""
        await self._send_error(
            {"type": "http.response.start", "status": error.status, "headers": []}
        )

    async def _start(self, message: Message) -> None:
        if self.limit:
            # What has begun may take its time.
            self.limit.reschedule(None)
        headers = [*message["headers"], (b"x-request-id", self._scope[RECORD]["id"].encode())]
        if self.closes:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _send_error(self, start: Message) -> None:
        self._finished = True
        self.limit = None
        if not _is_ours(self._body):
            response = self._standard_response(start)
            self._body = bytes(response.body)
            start = {**start, "headers": response.raw_headers}
        self.bytes = len(self._body)
        await self._start(start)
        await self._send({"type": "http.response.body", "body": self._body})

    def _standard_response(self, start: Message) -> Response:
        error = find_error(self.status)
        path, method = printable(self._scope["path"]), printable(self._scope["method"])
        message = error.message.format(path=path, method=method, timeout=self._timeout)
        headers = Headers(raw=start["headers"])
        kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
        return error.response(message, headers=kept)


async def _predict(scope: Scope, receive: Receive, send: Send) -> None:
    """What BentoML's router would come to, in two thirds of the time."""
    submission = await PredictRequest.from_http_request(Request(scope, receive), None)
    response = await get_current_service().respond(submission)
    await response(scope, receive, send)


def _rate_limit(settings: Settings) -> RateLimit | None:
    if settings.rate_limit is None:
        return None
    # BentoML's metrics folder: the workers of one service share it, and it is emptied at start.
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return RateLimit(settings.rate_limit, Path(folder, "rate-limit.bin") if folder else None)


def _digest_of_client(scope: Scope) -> bytes:
    return digest((scope["client"][0] if scope.get("client") else "").encode())


def _is_ours(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and "code" in error
