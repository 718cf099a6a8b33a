"""What reaches the service below HTTP: malformed, ambiguous, endless and slow requests."""

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


FLOODS = {
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


@pytest.mark.parametrize(("first", "further"), FLOODS.values(), ids=FLOODS)
def test_what_has_no_end_takes_no_memory(server: Any, first: bytes, further: bytes) -> None:
    [worker] = server.workers
    before = worker.memory_info().rss
    with connect(server) as connection, contextlib.suppress(OSError):
        connection.sendall(first)
        for _ in range(100):
            connection.sendall(further)
    # A body is taken up to its own limit of 20 MB, twice while it is joined.
    assert worker.memory_info().rss - before < 60 * MEBIBYTE
    assert server.client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()


class Peer:
    """The other end of a connection whose service answers "done"."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ends_with(self) -> bytes:
        """All that comes until the service closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 5)


def with_peer(act: Callable[[Peer], Any]) -> None:
    """Runs a coroutine against `LimitedProtocol` in this process."""

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
        listening = await loop.create_server(
            lambda: LimitedProtocol(config, state, {}), "127.0.0.1", 0
        )
        port = listening.sockets[0].getsockname()[1]
        peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
        try:
            await act(peer)
        finally:
            peer.writer.close()
            listening.close()

    asyncio.run(run())


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)


@pytest.mark.usefixtures("_short")
class TestWaiting:
    def test_a_silent_connection_is_closed(self) -> None:
        async def act(peer: Peer) -> None:
            assert await peer.ends_with() == b""

        with_peer(act)

    def test_a_head_that_trickles_is_a_408(self) -> None:
        async def act(peer: Peer) -> None:
            peer.writer.write(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(3):
                peer.writer.write(b"a")
                await asyncio.sleep(0.05)
            assert parse_responses(await peer.ends_with()) == [(408, "timeout")]

        with_peer(act)

    def test_an_answered_connection_is_closed_though_line_ends_trickle(self) -> None:
        async def act(peer: Peer) -> None:
            peer.writer.write(GET)
            assert (await peer.reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            for _ in range(3):
                peer.writer.write(b"\r\n")
                await asyncio.sleep(0.05)
            assert await peer.ends_with() == b""

        with_peer(act)

    def test_a_body_that_is_still_to_come_after_the_answer_is_not_waited_for(self) -> None:
        async def act(peer: Peer) -> None:
            peer.writer.write(b"POST_HEAD / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            assert (await peer.reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            assert await peer.ends_with() == b""

        with_peer(act)

    def test_an_answer_may_take_longer(self) -> None:
        async def act(peer: Peer) -> None:
            peer.writer.write(GET.replace(b"livez", b"slow"))
            assert (await peer.ends_with()).endswith(b"done")

        with_peer(act)


def test_who_does_not_take_refusals_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = [(b"content-length", b"200")], b"x" * 200
    monkeypatch.setattr(LimitedProtocol, "shed", staticmethod(lambda *_: refusal))

    async def act(peer: Peer) -> None:
        peer.writer.write(b"POST_HEAD /predict HTTP/1.1\r\n\r\n" * 1_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.writer.drain(), 2)
        taken = 0
        while taken < 10 * MEBIBYTE:  # more than was ready: reading goes on
            taken += len(await asyncio.wait_for(peer.reader.read(MEBIBYTE), 5))

    with_peer(act)


def test_many_slow_connections_take_little_memory(server: Any) -> None:
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
