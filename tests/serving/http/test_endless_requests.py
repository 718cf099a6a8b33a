"""Endless and slow requests: they neither hold a connection for ever nor use much memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving.http import protocol
from serving.http.protocol import LimitedProtocol
from tests.serving.http.raw_requests import (
    GET,
    MEBIBYTE,
    connect,
    encode_chunk,
    parse_responses,
    post_with_chunks,
)


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, workers=1, timeout=2) as server:
        server.wait_until_ready()
        yield server


ENDLESS_REQUESTS = {
    "a header without an end": (b"GET /livez HTTP/1.1\r\nX: ", b"a" * MEBIBYTE),
    "headers without an end": (b"GET /livez HTTP/1.1\r\n", b"X-a: b\r\n" * 100_000),
    "a URL without an end": (b"GET /", b"a" * MEBIBYTE),
    "trailers without an end": (
        post_with_chunks(encode_chunk() + b"0\r\n"),
        b"X-a: b\r\n" * 100_000,
    ),
    "a trailer without an end": (post_with_chunks(encode_chunk() + b"0\r\nX-a: "), b"a" * MEBIBYTE),
    "a chunk's size without an end": (post_with_chunks(b"5;"), b"a" * MEBIBYTE),
    "a body without an end": (post_with_chunks(b""), encode_chunk(b"a" * MEBIBYTE)),
    "requests without an end": (b"", GET * 20_000),
}


@pytest.mark.parametrize(("start", "repeated"), ENDLESS_REQUESTS.values(), ids=ENDLESS_REQUESTS)
def test_endless_request_uses_bounded_memory(server: Any, start: bytes, repeated: bytes) -> None:
    [worker] = server.workers
    before = worker.memory_info().rss
    with connect(server) as connection, contextlib.suppress(OSError):
        connection.sendall(start)
        for _ in range(100):
            connection.sendall(repeated)
    # The service reads up to 20 MB of a body, and holds them twice while it joins the pieces.
    assert worker.memory_info().rss - before < 60 * MEBIBYTE
    assert server.client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()


def test_many_slow_connections_use_little_memory(server: Any) -> None:
    [worker] = server.workers
    before = worker.memory_info().rss
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(500)]
        for byte in b"GET /livez":
            for connection in slow:
                connection.sendall(bytes([byte]))
        assert server.client.get("/livez").status_code == 200
        assert worker.memory_info().rss - before < 30 * MEBIBYTE
    assert psutil.pid_exists(worker.pid)


class Client:
    """A connection to `LimitedProtocol`, whose application responds with "done"."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def read_to_end(self) -> bytes:
        """Return everything that arrives until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 5)


def run_with_client(act: Callable[[Client], Any]) -> None:
    """Run a coroutine with a client of a `LimitedProtocol` in this process."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})

    async def run() -> None:
        config = uvicorn.Config(app, http=LimitedProtocol, log_config=None, timeout_keep_alive=60)
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: LimitedProtocol(config, state, {}), "127.0.0.1", 0
        )
        port = listener.sockets[0].getsockname()[1]
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        try:
            await act(client)
        finally:
            client.writer.close()
            listener.close()

    asyncio.run(run())


@pytest.fixture
def _short_head_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)


@pytest.mark.usefixtures("_short_head_timeout")
class TestHeadTimeout:
    def test_silent_connection_is_closed(self) -> None:
        async def act(client: Client) -> None:
            assert await client.read_to_end() == b""

        run_with_client(act)

    def test_slow_head_is_a_408(self) -> None:
        async def act(client: Client) -> None:
            client.writer.write(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(3):
                client.writer.write(b"a")
                await asyncio.sleep(0.05)
            assert parse_responses(await client.read_to_end()) == [(408, "timeout")]

        run_with_client(act)

    def test_line_ends_do_not_keep_an_idle_connection_open(self) -> None:
        async def act(client: Client) -> None:
            client.writer.write(GET)
            assert (await client.reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            for _ in range(3):
                client.writer.write(b"\r\n")
                await asyncio.sleep(0.05)
            assert await client.read_to_end() == b""

        run_with_client(act)

    def test_missing_body_after_the_response_is_not_awaited(self) -> None:
        async def act(client: Client) -> None:
            client.writer.write(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            assert (await client.reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            assert await client.read_to_end() == b""

        run_with_client(act)

    def test_response_may_take_longer_than_the_head(self) -> None:
        async def act(client: Client) -> None:
            client.writer.write(GET.replace(b"livez", b"slow"))
            assert (await client.read_to_end()).endswith(b"done")

        run_with_client(act)


def test_reading_stops_while_a_client_does_not_read_its_responses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LimitedProtocol, "shed", staticmethod(lambda *_: b"x" * 200))

    async def act(client: Client) -> None:
        client.writer.write(b"POST /predict HTTP/1.1\r\n\r\n" * 1_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.writer.drain(), 2)
        received = 0
        # More than the server had ready: it reads requests again once the client reads responses.
        while received < 10 * MEBIBYTE:
            received += len(await asyncio.wait_for(client.reader.read(MEBIBYTE), 5))

    run_with_client(act)
