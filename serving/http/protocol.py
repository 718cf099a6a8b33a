"""HTTP/1.1 with limits on the head of a request.

uvicorn's protocol accepts heads of any length and waits for them without end. An ASGI application
sees a request when its head is complete, so only the protocol can limit the head.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import uvicorn.config
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.http.admission import Client, RawHeaders
from serving.http.cors import Cors
from serving.http.errors import HttpError
from serving.http.messages import IS_GONE
from serving.metrics import REQUESTS

MAX_HEAD_BYTES = 65_536
"""The limit of a request's line, headers and trailers together."""

MAX_PIPELINED_REQUESTS = 16
"""Requests that a client may send on a connection before the first one is answered."""

HEAD_SECONDS = 10.0
"""The time from a connection, or from an answer, to the end of the next request's head."""

Shed = Callable[[bytes, bytes, RawHeaders, Client], bytes | None]
"""Returns the id of a request to refuse, from its method, URL, headers and client, or None."""

_MALFORMED = "the request is not valid HTTP/1.1"
_HEAD_TOO_LARGE = f"the URL and headers are over the limit of {MAX_HEAD_BYTES:,} bytes"
_CONNECT = "the service is no proxy and accepts no CONNECT"


@functools.cache
def _head_and_body(error: HttpError, message: str | None) -> tuple[bytes, bytes]:
    response = error.response(message)
    lines = [b"%b: %b" % header for header in response.raw_headers]
    return b"\r\n".join([error.status_line, *lines]), bytes(response.body)


def _response(error: HttpError, message: str | None, *headers: bytes) -> bytes:
    """Return a whole response, with these header lines beside those of the error."""
    head, body = _head_and_body(error, message)
    return b"\r\n".join([head, *headers, b"", body])


def install(shed: Shed, cors: Cors | None) -> None:
    """Make the servers that this process starts use `LimitedProtocol`.

    BentoML starts uvicorn without an option for the protocol, so uvicorn's table is changed.

    Args:
        shed: Called when the head of a request ends, see `ServiceMiddleware.shed`.
        cors: Gives the headers for pages of other origins, None if there are no such pages.
    """
    LimitedProtocol.shed = staticmethod(shed)
    LimitedProtocol.cors = cors
    uvicorn.config.HTTP_PROTOCOLS["auto"] = "serving.http.protocol:LimitedProtocol"


class LimitedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's protocol with limits on heads, and errors in our shape."""

    shed: Shed = staticmethod(lambda *_: None)
    cors: Cors | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A WebSocket of uvicorn would bypass the middleware.
        self.ws_protocol_class = None
        self._head_bytes = 0
        self._held_bytes = 0
        self._error, self._message = HttpError.BAD_REQUEST, _MALFORMED
        self._in_head = False
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and drop the request that is being answered."""
        self._stop_waiting()
        self._drop_running()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Resume reading that was paused until the client took its refusals."""
        super().resume_writing()
        if self.cycle is None or self.cycle.response_complete:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parse data, counting the bytes of an unfinished header that the parser holds back."""
        self._held_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            self.send_400_response("")
            return
        if self._held_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._error, self._message = HttpError.HEAD_TOO_LARGE, _HEAD_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._held_bytes = 0
        self._in_head = True
        if self._timer is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End a head: refuse the request, or start its task."""
        self._held_bytes = 0
        if self.parser.should_upgrade():
            # `_feed` parses the head again, without its upgrade.
            self._check_not_connect()
            return
        self._in_head = False
        self._stop_waiting()
        if len(self.pipeline) >= MAX_PIPELINED_REQUESTS:
            raise HttpParserError(f"more than {MAX_PIPELINED_REQUESTS} pipelined requests")
        # A pipelined request is answered in its turn, so it cannot be refused yet.
        is_next = self.cycle is None or self.cycle.response_complete
        request_id = is_next and self.shed(
            self.parser.get_method(), self.url, self.headers, self.client
        )
        if request_id:
            self._refuse(request_id)
        else:
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._held_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._held_bytes = 0
        if self.parser.should_upgrade():
            return
        if not self._is_refused:
            super().on_message_complete()
        elif not self._keeps_alive():
            self.transport.close()
        self._is_refused = False

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the rest of an answered one."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answer an invalid request, or one over a limit, and close the connection."""
        headers = [b"connection: close", *self._cors_lines()]
        self.transport.write(_response(self._error, self._message, *headers))
        self.transport.close()
        REQUESTS.labels(self._error.status).inc()
        self._drop_running()

    def _drop_running(self) -> None:
        """Mark the request that is being answered as disconnected."""
        # uvicorn marks the last request of a connection, which may be a later, pipelined one.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                # The service speaks HTTP/1.1 alone and may ignore an upgrade (RFC 9110, 7.8). The
                # parser takes what follows the head for another protocol, so a new one parses the
                # head without its upgrade, and the body.
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.scope[IS_GONE] = lambda: cycle.disconnected  # type: ignore[literal-required]
        super()._start_asgi_task(cycle, app)

    def _refuse(self, request_id: bytes) -> None:
        """Answer at once, and drop the body that still follows."""
        self._is_refused = True
        headers = [b"x-request-id: " + request_id, *self._cors_lines()]
        if not self._keeps_alive():
            headers.append(b"connection: close")
        self.transport.write(_response(HttpError.OVERLOADED, None, *headers))
        if self.flow.write_paused:
            self.flow.pause_reading()
        self._wait()

    def _cors_lines(self) -> list[bytes]:
        # A connection without a request has no headers yet.
        return self.cors.header_lines(self.headers or ()) if self.cors else []

    def _keeps_alive(self) -> bool:
        return bool(self.parser.should_keep_alive()) and self.parser.get_http_version() != "1.0"

    def _count(self, size: int) -> None:
        self._held_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._error, self._message = HttpError.HEAD_TOO_LARGE, _HEAD_TOO_LARGE
            raise HttpParserError(_HEAD_TOO_LARGE)

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _check_not_connect(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._message = _CONNECT
            raise HttpParserError(_CONNECT)

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            self._error = HttpError.HEAD_TIMEOUT
            self._message = f"the headers did not end within {HEAD_SECONDS:g} s"
            self.send_400_response("")
        self.transport.close()
