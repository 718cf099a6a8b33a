"""The middleware around BentoML's application: admission, time limit, errors, metrics and log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.admission import Admission, Client, RawHeaders
from serving.http.errors import MIN_ERROR_STATUS, HttpError, find_error
from serving.http.lines import is_lines
from serving.http.messages import RECORD, PredictRequest, Submission
from serving.http.parsing import printable
from serving.http.request_log import RequestLog, new_record
from serving.metrics import LATENCY, REQUESTS
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.batching import Batcher
    from serving.page.app import PageApp

HEALTH_PATHS = frozenset({"/livez", "/healthz", "/readyz"})
"""Paths that are answered to everybody at any time, and neither counted nor logged."""

PREDICT_PATH = "/predict"
_SLASHED_PREDICT_PATH = PREDICT_PATH + "/"
_PREDICT_URLS = (PREDICT_PATH.encode(), _SLASHED_PREDICT_PATH.encode())

CLOSE_EVERY = 8
"""Under load, one response in this many closes its connection."""

MIN_BUSY_REQUESTS = 4
"""Requests in flight from which a worker counts as loaded."""

Predict = Callable[[Submission | Response], Awaitable[Response]]

logger = logging.getLogger("bentoml.dimml")

_SHED_REQUESTS = REQUESTS.labels(HttpError.OVERLOADED.status)
_KEPT_HEADERS = ("allow", "retry-after", "www-authenticate")


class ServiceMiddleware:
    """Wraps the application that BentoML builds.

    A prediction goes from here directly to the service's handler. BentoML's router calls the same
    handler, but a request then takes half as long again.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.admission = Admission(settings)
        self._settings = settings
        self.log: RequestLog | None = None
        self._predict: Predict | None = None
        self._predict_lines: ASGIApp | None = None
        self._page: PageApp | None = None
        self._requests_in_flight = 0
        self._requests_admitted = 0

    def connect(
        self,
        predict: Predict,
        batcher: Batcher[Any, Any],
        predict_lines: ASGIApp | None = None,
        page: PageApp | None = None,
    ) -> None:
        """Set the handlers of predictions, the queue that they wait in, and the web page.

        BentoML creates the service as the application starts, after it has built this middleware.
        """
        self._predict = predict
        self._predict_lines = predict_lines
        self._page = page
        self.admission.batcher = batcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self.app(scope, receive, send)
            return
        if scope["path"] == _SLASHED_PREDICT_PATH:
            scope["path"] = PREDICT_PATH
        headers = dict(scope["headers"])
        if self._page and self._page.serves(scope["method"], scope["path"], headers):
            # The page's own requests to the API are counted, logged and limited.
            is_upload = scope["path"].endswith("/upload")
            refusal = self.admission.refuse_page(headers, scope.get("client"), is_upload)
            await (refusal or self._page)(scope, receive, send)
            return
        started = time.perf_counter()
        record = scope[RECORD] = new_record(scope, headers)
        sender = _ResponseSender(scope, send, self._settings.timeout)
        self._requests_in_flight += 1
        try:
            refusal = self.admission.refuse(headers, scope.get("client"))
            if refusal is None:
                has_lines = is_lines(headers.get(b"content-type", b""))
                await self._run(scope, receive, sender, has_lines)
            else:
                await refusal(scope, receive, sender.send)
        except Exception:
            logger.exception("request %s failed", record["id"])
            await sender.fail(HttpError.INTERNAL)
        finally:
            self._requests_in_flight -= 1
            self._count(sender, record, time.perf_counter() - started)

    def shed(self, method: bytes, url: bytes, headers: RawHeaders, client: Client) -> bytes | None:
        """Return the id of a prediction that is refused because the queue is full, else None.

        The protocol asks as soon as the head of a request is complete. A task, a scope and a
        response for each request of a flood would slow down the requests that were accepted.
        """
        if method != b"POST" or url.partition(b"?")[0] not in _PREDICT_URLS:
            return None
        header_map = dict(headers)
        # Lines wait for room.
        if is_lines(header_map.get(b"content-type", b"")):
            return None
        if not self.admission.must_shed(header_map, client):
            return None
        scope = {"client": client, "method": "POST", "path": PREDICT_PATH}
        record = new_record(scope, header_map)
        _SHED_REQUESTS.inc()
        if self.log:
            self.log.add({**record, "status": HttpError.OVERLOADED.status})
        return str(record["id"]).encode()

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.log = RequestLog() if self._settings.request_log else None
        try:
            await self.app(scope, receive, send)
        finally:
            if self._page:
                await self._page.close()
            if self.log:
                self.log.close()

    async def _run(
        self, scope: Scope, receive: Receive, sender: _ResponseSender, has_lines: bool
    ) -> None:
        # Workers share one listening socket, and a burst of connections can land on one of them.
        self._requests_admitted += 1
        is_busy = self._requests_in_flight >= MIN_BUSY_REQUESTS
        sender.closes_connection = is_busy and self._requests_admitted % CLOSE_EVERY == 0
        try:
            async with asyncio.timeout(self._settings.timeout) as time_limit:
                sender.time_limit = time_limit
                is_prediction = scope["path"] == PREDICT_PATH and scope["method"] == "POST"
                if is_prediction and self._predict_lines and has_lines:
                    await self._predict_lines(scope, receive, sender.send)
                elif is_prediction and self._predict:
                    request = Request(scope, receive)
                    submission = await PredictRequest.from_http_request(request, None)
                    response = await self._predict(submission)
                    await response(scope, receive, sender.send)
                else:
                    await self.app(scope, receive, sender.send)
        except TimeoutError:
            if not time_limit.expired():
                raise
            await sender.fail(HttpError.TIMEOUT)

    def _count(self, sender: _ResponseSender, record: dict[str, Any], seconds: float) -> None:
        if not sender.status:
            return
        REQUESTS.labels(sender.status).inc()
        # The time of a request of many lines depends on its client.
        if "lines" not in record:
            LATENCY.observe(seconds)
        if self.log:
            record["status"] = sender.status
            record["ms"] = round(1000 * seconds, 3)
            record["bytes_out"] = sender.body_bytes
            self.log.add(record)


class _ResponseSender:
    """Sends one response, and replaces the body of an error that another library wrote."""

    def __init__(self, scope: Scope, send: Send, timeout: float) -> None:
        self.time_limit: asyncio.Timeout | None = None
        self.status = 0
        self.body_bytes = 0
        self.closes_connection = False
        self._scope = scope
        self._send = send
        self._timeout = timeout
        self._finished = False
        self._held_start: Message | None = None
        self._error_body = b""

    async def send(self, message: Message) -> None:
        """Take one message of the application."""
        if self._finished:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # An error waits for its body, which decides its headers.
            if self.status >= MIN_ERROR_STATUS:
                self._held_start = message
            else:
                await self._start(message)
        elif self._held_start is None:
            self.body_bytes += len(message.get("body", b""))
            await self._send(message)
        else:
            self._error_body += message.get("body", b"")
            if not message.get("more_body"):
                await self._send_error(self._held_start)

    async def fail(self, error: HttpError) -> None:
        """Send an error in place of the application's response, unless that has begun."""
        if self._finished or (self.status and self._held_start is None):
            return
        self.status, self._error_body = error.status, b""
        await self._send_error(
            {"type": "http.response.start", "status": self.status, "headers": []}
        )

    async def _start(self, message: Message) -> None:
        if self.time_limit:
            # The time limit ends with the first byte of the response.
            self.time_limit.reschedule(None)
        headers = [*message["headers"], (b"x-request-id", self._scope[RECORD]["id"].encode())]
        if self.closes_connection:
            headers.append((b"connection", b"close"))
        await self._send({**message, "headers": headers})

    async def _send_error(self, start: Message) -> None:
        self._finished = True
        self.time_limit = None
        body = self._error_body
        if not _has_error_code(body):
            response = self._standard_response(Headers(raw=start["headers"]))
            body, start = bytes(response.body), {**start, "headers": response.raw_headers}
        self.body_bytes = len(body)
        await self._start(start)
        await self._send({"type": "http.response.body", "body": body})

    def _standard_response(self, headers: Headers) -> Response:
        error = find_error(self.status)
        path, method = printable(self._scope["path"]), printable(self._scope["method"])
        message = error.message.format(path=path, method=method, timeout=self._timeout)
        kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
        return error.response(message, headers=kept)


def _has_error_code(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and "code" in error
