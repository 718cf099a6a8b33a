"""HTTP/1.1 with limits: uvicorn's own protocol takes heads of any length, for as long as it likes.

An ASGI application sees a request only when its head is complete, so these limits stand here.
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
from serving.http.errors import HttpError
from serving.metrics import REQUESTS

MAX_HEAD_BYTES = 65_536
"""Of a request's line, headers and trailers together."""

MAX_AHEAD = 16
"""Requests that a connection may send before the first of them is answered."""

HEAD_SECONDS = 10.0
"""From a connection, or an answer on it, to the end of the next request's head."""

Shed = Callable[[bytes, bytes, RawHeaders, Client], bytes | None]
"""Returns the id of a request that is refused, from its method, URL, headers and client."""

_MALFORMED = "the request is not valid HTTP/1.1"
_HEAD_TOO_LARGE = f"the URL and headers are over the limit of {MAX_HEAD_BYTES:,} bytes"
_UPGRADE = "the service speaks HTTP/1.1; send the body without an Upgrade header"


@functools.cache
def _head_and_body(error: HttpError, message: str | None) -> tuple[bytes, bytes]:
    response = error.response(message)
    lines = [b"%b: %b" % header for header in response.raw_headers]
    return b"\r\n".join([error.status_line, *lines]), bytes(response.body)


def _response(error: HttpError, message: str | None, *headers: bytes) -> bytes:
    """Return a whole response, with these header lines beside those of the error."""
    head, body = _head_and_body(error, message)
    return b"\r\n".join([head, *headers, b"", body])


def install(shed: Shed) -> None:
    """Makes the servers that this process starts speak `LimitedProtocol`.

    BentoML starts uvicorn itself and leaves no room for the option.

    Args:
        shed: asked of each request as its head ends, see `ServiceMiddleware.shed`.
    """
    LimitedProtocol.shed = staticmethod(shed)
    uvicorn.config.HTTP_PROTOCOLS["auto"] = "serving.http.protocol:LimitedProtocol"


class LimitedProtocol(HttpToolsProtocol):
    """One connection: uvicorn's protocol with limits on heads, and our shape of errors."""

    shed: Shed = staticmethod(lambda *_: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # uvicorn's WebSocket would answer past all of us.
        self.ws_protocol_class = None
        self._head_bytes = 0
        self._held_bytes = 0
        self._error, self._message = HttpError.BAD_REQUEST, _MALFORMED
        self._in_head = False
        self._is_refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        self._stop_waiting()
        self._drop_running()
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Reads on, where reading waited for a client to take its refusals."""
        super().resume_writing()
        if self.cycle is None or self.cycle.response_complete:
            self.flow.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Parses what came; what the parser holds back of a header without an end is counted."""
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
        """Begins a head."""
        super().on_message_begin()
        self._head_bytes = self._held_bytes = 0
        self._in_head = True
        if self._timer is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header or a trailer."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Ends a head."""
        self._held_bytes = 0
        self._in_head = False
        self._stop_waiting()
        if len(self.pipeline) >= MAX_AHEAD:
            raise HttpParserError(f"over {MAX_AHEAD} requests ahead")
        if self.parser.should_upgrade() and not self._should_upgrade() and self._has_body():
            # The parser takes the body of such a request for another protocol's.
            self._message = _UPGRADE
            raise HttpParserError(_UPGRADE)
        # One that was sent ahead has to wait for its turn to be answered.
        is_next = self.cycle is None or self.cycle.response_complete
        request_id = is_next and self.shed(
            self.parser.get_method(), self.url, self.headers, self.client
        )
        if request_id:
            self._refuse(request_id)
        else:
            super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Takes the size of a chunk."""
        self._held_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._held_bytes = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends a request."""
        self._held_bytes = 0
        if not self._is_refused:
            super().on_message_complete()
        elif not self._keeps_alive():
            self.transport.close()
        self._is_refused = False

    def on_response_complete(self) -> None:
        """Waits for the next request, and for what is still to come of an answered one."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, or one over a limit, and closes the connection."""
        self.transport.write(_response(self._error, self._message, b"connection: close"))
        self.transport.close()
        REQUESTS.labels(self._error.status).inc()
        self._drop_running()

    def _drop_running(self) -> None:
        """What is still computed for this connection has nowhere to go."""
        # uvicorn knows the last request of a connection, which others may have been sent before.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _feed(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                # An upgrade is ignored; the parser takes what follows for another protocol's.
                data = data[upgrade.args[0] :]
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _refuse(self, request_id: bytes) -> None:
        """Answers at once; the body that is still to come is dropped."""
        self._is_refused = True
        headers = [] if self._keeps_alive() else [b"connection: close"]
        self.transport.write(
            _response(HttpError.OVERLOADED, None, b"x-request-id: " + request_id, *headers)
        )
        if self.flow.write_paused:
            self.flow.pause_reading()
        self._wait()

    def _keeps_alive(self) -> bool:
        return bool(self.parser.should_keep_alive()) and self.parser.get_http_version() != "1.0"

    def _count(self, size: int) -> None:
        self._held_bytes = 0
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._error, self._message = HttpError.HEAD_TOO_LARGE, _HEAD_TOO_LARGE
            raise HttpParserError(_HEAD_TOO_LARGE)

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

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
