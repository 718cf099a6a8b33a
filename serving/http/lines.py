"""Many samples in one request: a JSON sample on each line, and a JSON answer on each line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from dimml.errors import InputError
from serving.http.errors import HttpError, input_error_body, input_error_response
from serving.http.messages import IS_GONE, RECORD, content_encoding_error
from serving.http.parsing import JSON, NDJSON, RawRequest
from serving.http.query import parse_query
from serving.metrics import LINES
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.batching import Batcher
    from serving.pipeline import PipelineResult

    _Batcher: TypeAlias = Batcher[RawRequest, PipelineResult]

LINES_TYPES = frozenset({NDJSON.encode(), b"application/ndjson", b"application/jsonl"})
MAX_UNSENT_BYTES = 20_000_000
"""Answers that a request may have in memory. Many clients send all lines before they read one."""

logger = logging.getLogger("bentoml.dimml")


def is_lines(content_type: bytes) -> bool:
    """Return whether a request of this Content-Type has a sample on each line."""
    return content_type.partition(b";")[0].strip().lower() in LINES_TYPES


class LinesPredictor:
    """Answers the requests of a worker that have many samples.

    Args:
        batcher: The queue of all predictions.
        settings: The limits.
        max_requests: How many of these requests may run at once.
    """

    def __init__(self, batcher: _Batcher, settings: Settings, max_requests: int) -> None:
        self._batcher = batcher
        self._settings = settings
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        if refusal := self._refuse(request):
            await refusal(scope, receive, send)
            return
        self._running += 1
        try:
            await _Exchange(self._batcher, self._settings, request).run(send)
        finally:
            self._running -= 1

    def _refuse(self, request: Request) -> Response | None:
        if refusal := content_encoding_error(request):
            return refusal
        try:
            # The lines are parsed later, but an error in the query is the same for all of them.
            parse_query(request.scope["query_string"].decode("latin-1"))
        except InputError as error:
            return input_error_response(error)
        return HttpError.OVERLOADED.response() if self._running >= self._max_requests else None


class _Exchange:
    """One request: a task reads its lines, a task waits for each answer, and one writes them."""

    def __init__(self, batcher: _Batcher, settings: Settings, request: Request) -> None:
        self._batcher = batcher
        self._settings = settings
        self._request = request
        self._query = request.scope["query_string"].decode("latin-1")
        self._record: dict[str, Any] = request.scope.get(RECORD, {})
        self._record |= {"lines": 0, "errors": 0}
        self._is_gone: Callable[[], bool] = request.scope.get(IS_GONE, lambda: False)
        self._answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        self._has_started = self._is_sending = False
        self._time_limit: asyncio.Timeout | None = None
        self._unsent_bytes = 0
        self._sent = asyncio.Event()

    async def run(self, send: Send) -> None:
        """Send an answer for each line, until the client leaves or stops to read."""
        try:
            # Leaving the group cancels the lines that are not computed yet.
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(group))
                await self._write(send)
                reader.cancel()
        except* (ClientDisconnect, TimeoutError):
            self._record["error"] = "client_left"
            if not self._has_started:
                response = HttpError.INVALID_REQUEST.response("the client left")
                await response(self._request.scope, self._request.receive, send)

    async def _read(self, group: asyncio.TaskGroup) -> None:
        """Queue each line as soon as there is room, then wait for the client to leave."""
        number, max_bytes = 0, self._settings.max_body_bytes
        async for line in split_lines(self._request.stream(), max_bytes):
            number += 1
            if number > self._settings.max_lines:
                self._put(group, InputError("too_large", self._too_many_lines()))
                break
            if len(line) > max_bytes:
                text = f"the line is over the limit of {max_bytes:,} bytes"
                self._put(group, InputError("too_large", text))
            elif line.strip():
                await self._batcher.wait_for_spare_room()
                if self._is_gone():
                    raise ClientDisconnect
                self._note_progress()
                self._put(group, self._batcher.enqueue(RawRequest(JSON, self._query, line)))
            while self._unsent_bytes > MAX_UNSENT_BYTES:
                self._sent.clear()
                await self._sent.wait()
        self._answers.put_nowait(None)
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    def _too_many_lines(self) -> str:
        limit = self._settings.max_lines
        return f"over the limit of {limit:,} lines; send this line and the rest in another request"

    def _put(
        self, group: asyncio.TaskGroup, result: asyncio.Future[PipelineResult] | InputError
    ) -> None:
        self._answers.put_nowait(group.create_task(self._answer(result)))

    async def _answer(self, result: asyncio.Future[PipelineResult] | InputError) -> bytes:
        """Return the answer of a line, and count the line."""
        code = "ok"
        try:
            content = result if isinstance(result, InputError) else (await result).content
        except Exception:
            logger.exception("a line of request %s failed", self._record.get("id"))
            code, answer = HttpError.INTERNAL.code, HttpError.INTERNAL.body()
        else:
            if isinstance(content, InputError):
                code, answer = content.code, input_error_body(content)
            else:
                answer = orjson.dumps(content)
        LINES.labels(code).inc()
        self._record["lines"] += 1
        self._record["errors"] += code != "ok"
        self._unsent_bytes += len(answer)
        return answer

    async def _write(self, send: Send) -> None:
        """Send the answers in the order of their lines.

        The middleware limits the time to the first answer. Then the same time may pass without a
        line read or an answer sent.
        """
        timeout = self._settings.timeout
        answer = await self._next_answer()
        self._has_started = True
        headers = [(b"content-type", NDJSON.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async with asyncio.timeout(timeout) as self._time_limit:
                while answer is not None:
                    await self._send_line(send, answer)
                    answer = await self._next_answer()
        except TimeoutError:
            if self._is_sending:
                raise
            text = f"no line arrived or was answered for {timeout:g} s; send the others again"
            async with asyncio.timeout(timeout):
                await send(_body(HttpError.TIMEOUT.body(text) + b"\n", more=True))
        await send(_body(b"", more=False))

    async def _send_line(self, send: Send, answer: bytes) -> None:
        self._is_sending = True
        await send(_body(answer + b"\n", more=True))
        self._is_sending = False
        self._unsent_bytes -= len(answer)
        self._sent.set()
        self._note_progress()

    def _note_progress(self) -> None:
        if self._time_limit is not None and not self._time_limit.expired():
            now = asyncio.get_running_loop().time()
            self._time_limit.reschedule(now + self._settings.timeout)

    async def _next_answer(self) -> bytes | None:
        """Return the answer of the next line, None after the last line."""
        task = await self._answers.get()
        return None if task is None else await task


async def split_lines(chunks: AsyncIterable[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body, and of a line over `max_bytes` only a longer beginning."""
    line = bytearray()
    async for chunk in chunks:
        for number, piece in enumerate(chunk.split(b"\n")):
            if number:
                yield bytes(line)
                line.clear()
            if len(line) <= max_bytes:
                line += piece
    if line:
        yield bytes(line)


def _body(content: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}
