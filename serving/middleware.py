"""Every answer, whoever made it: errors in our shape, a time limit, a count by status."""

from __future__ import annotations

import asyncio
import logging

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import ANSWERS
from serving.parsing import printable
from serving.schemas import error_body
from serving.settings import get_settings

logger = logging.getLogger("bentoml.dimml")

UNCOUNTED_PATHS = frozenset({"/livez", "/healthz", "/readyz", "/metrics"})
_KEPT_HEADERS = (b"allow", b"retry-after")
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


class AnswerMiddleware:
    """Wraps the application that BentoML builds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            await self._run(scope, receive, answer)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await answer.fail(500)
        if answer.status and scope["path"] not in UNCOUNTED_PATHS:
            ANSWERS.labels(answer.status).inc()

    async def _run(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        # The work of a thread cannot be cancelled, so `asyncio.timeout` would wait for its end.
        task = asyncio.ensure_future(self.app(scope, receive, answer.send))
        try:
            await asyncio.wait({task}, timeout=get_settings().timeout)
            if not task.done() and not answer.started:
                await answer.fail(504)
                return
            await task
        finally:
            task.cancel()


class _Answer:
    """The messages of one answer: successes pass, errors that are not ours are put in our shape."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self.started = False
        self._scope = scope
        self._send = send
        self._finished = False
        self._held: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        """Takes one message of the application."""
        if self._finished:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started = True
            if self.status >= 400:
                self._held = message
                return
        elif self._held is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_error(self._held)
            return
        await self._send(message)

    async def fail(self, status: int) -> None:
        """Answers in place of the application, unless it has begun to."""
        if self._finished or (self.started and self._held is None):
            return
        self.status, self._body = status, b""
        await self._send_error({"type": "http.response.start", "status": status, "headers": []})

    async def _send_error(self, start: Message) -> None:
        self._finished = True
        if _is_ours(self._body):
            await self._send(start)
        else:
            self._body = _standard_body(self.status, self._scope)
            await self._send({**start, "headers": _headers(start, self.status, len(self._body))})
        await self._send({"type": "http.response.body", "body": self._body})


def _is_ours(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and "code" in error


def _headers(start: Message, status: int, length: int) -> list[tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in start["headers"] if name.lower() in _KEPT_HEADERS]
    if status in (429, 503) and b"retry-after" not in dict(kept):
        kept.append((b"retry-after", b"1"))
    length_header = (b"content-length", str(length).encode())
    return [*kept, length_header, (b"content-type", b"application/json")]


def _standard_body(status: int, scope: Scope) -> bytes:
    code, message = _STANDARD.get(status) or _STANDARD[400 if status < 500 else 500]
    path, method = printable(scope["path"]), printable(scope["method"])
    limit = get_settings().timeout
    return error_body(code, message.format(path=path, method=method, limit=limit))
