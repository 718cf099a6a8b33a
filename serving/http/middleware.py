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
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.admission import Keys, RateLimit, digest, is_loopback, key_of
from serving.http.messages import (
    RECORD,
    RETRY_AFTER_SECONDS,
    PredictRequest,
    error_body,
)
from serving.http.parsing import printable
from serving.http.request_log import RequestLog, new_record
from serving.metrics import LATENCY, REQUESTS
from serving.settings import Settings, get_settings

logger = logging.getLogger("bentoml.dimml")

HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
"""Answered to anybody at any time, and neither counted nor logged."""

CLOSE_EVERY = 8
BUSY = 3
_KEPT_HEADERS = (b"allow", b"retry-after", b"www-authenticate")
_STANDARD = {
    400: ("invalid_request", "the request was refused"),
    404: ("not_found", "there is nothing at {path}; /openapi.json lists what there is"),
    405: ("invalid_request", "{path} does not answer {method}; the Allow header says what it does"),
    413: ("too_large", "the request is too large"),
    415: ("unsupported_type", "the Content-Type is not accepted"),
    429: ("overloaded", "too many requests at once; try again shortly"),
    500: ("internal", "the service failed; its log says why"),
    503: ("overloaded", "the service is not able to answer now; try again shortly"),
    504: ("timeout", "no answer within {limit:g} s"),
}
"""Code and message of the errors that come from elsewhere than the handlers of this package."""
_NO_KEY = (
    "an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    "this API key is not accepted",
    "without API keys, only clients on the service's own machine are answered; its operator sets "
    "DIMML_API_KEYS, or DIMML_ALLOW_ANONYMOUS=1",
)


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
            if not await self._refuse(scope, headers, answer):
                await self._run(scope, receive, answer)
        except Exception:
            logger.exception("request %s failed", record["id"])
            await answer.fail(500)
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

    async def _refuse(self, scope: Scope, headers: dict[bytes, bytes], answer: _Answer) -> bool:
        """Answers what need not be looked at, whatever is still to come of its body."""
        key, problem = self._key(headers, scope.get("client"))
        if problem is None:
            return await self._limit(scope, key, answer)
        challenge = [(b"www-authenticate", b"Bearer")]
        await answer.refuse(401, error_body("unauthorized", problem), challenge)
        return True

    def may_ask(self, headers: Mapping[bytes, bytes], client: tuple[str, int] | None) -> bool:
        """Whether a client has the key that it needs, if it needs one."""
        return self._key(headers, client)[1] is None

    def _key(
        self, headers: Mapping[bytes, bytes], client: tuple[str, int] | None
    ) -> tuple[bytes | None, str | None]:
        """The digest of a client's key, and why it is not answered."""
        given = key_of(headers)
        key = self.keys.find(given) if given is not None else None
        if self.keys.are_set and key is None:
            return None, _NO_KEY[0 if given is None else 1]
        if not (self.keys.are_set or self.settings.allow_anonymous or is_loopback(client)):
            return None, _NO_KEY[2]
        return key, None

    async def _limit(self, scope: Scope, key: bytes | None, answer: _Answer) -> bool:
        if self.rate_limit:
            wait = self.rate_limit.wait(key or _digest_of_client(scope))
            if wait > 0:
                message = (
                    f"over {self.settings.rate_limit:g} requests per second; wait {wait:.1f} s"
                )
                body = error_body("overloaded", message)
                await answer.refuse(429, body, [_retry_after(math.ceil(wait))])
                return True
        return False

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
            await answer.fail(504)

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
            if self.status >= 400:
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

    async def refuse(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Answers an error of our own without asking the application."""
        self.status, self._body = status, body
        length = (b"content-length", str(len(body)).encode())
        kind = (b"content-type", b"application/json")
        start = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, length, kind],
        }
        await self._send_error(start)

    async def fail(self, status: int) -> None:
        """Answers in place of the application, unless it has begun to."""
        if self._finished or (self.status and self._held is None):
            return
        self.status, self._body = status, b""
        await self._send_error({"type": "http.response.start", "status": status, "headers": []})

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
            self._body = self._standard_body()
            start = {**start, "headers": [*_kept(start, self.status), *_describe(self._body)]}
        self.bytes = len(self._body)
        await self._start(start)
        await self._send({"type": "http.response.body", "body": self._body})

    def _standard_body(self) -> bytes:
        code, message = _STANDARD.get(self.status) or _STANDARD[400 if self.status < 500 else 500]
        path, method = printable(self._scope["path"]), printable(self._scope["method"])
        return error_body(code, message.format(path=path, method=method, limit=self._timeout))


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


def _retry_after(seconds: int) -> tuple[bytes, bytes]:
    return (b"retry-after", str(seconds).encode())


def _is_ours(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and "code" in error


def _kept(start: Message, status: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in start["headers"] if name.lower() in _KEPT_HEADERS]
    if status in (429, 503) and b"retry-after" not in dict(kept):
        kept.append(_retry_after(RETRY_AFTER_SECONDS))
    return kept


def _describe(body: bytes) -> list[tuple[bytes, bytes]]:
    length = (b"content-length", str(len(body)).encode())
    return [length, (b"content-type", b"application/json")]
