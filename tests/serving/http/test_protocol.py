"""What reaches the service below HTTP: malformed, ambiguous, endless and slow requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving.http import protocol
from serving.http.protocol import MAX_AHEAD, MAX_HEAD_BYTES, LimitedProtocol

PART = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nseven\r\n--x--\r\n'
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
MEBIBYTE = 2**20
MALFORMED = [(400, "invalid_request")]
TOO_LARGE = [(431, "too_large")]
FINE = [(200, None)]


def sized(length: object, body: bytes = PART) -> bytes:
    return POST + f"Content-Length: {length}\r\n\r\n".encode() + body


def chunk(content: bytes = PART) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def chunked(chunks: bytes, headers: bytes = CHUNKED) -> bytes:
    return POST + headers + b"\r\n" + chunks


BOTH = CHUNKED + f"Content-Length: {len(PART)}\r\n".encode()
REQUESTS: dict[str, tuple[bytes, list[tuple[int, str | None]]]] = {
    "Content-Length that fits": (sized(len(PART)), FINE),
    "Content-Length too small": (sized(len(PART) - 4), [(422, "invalid_request")]),
    "Content-Length below 0": (sized(-5), MALFORMED),
    "Content-Length of 30 digits": (sized("9" * 30), MALFORMED),
    "Content-Length +5": (sized("+5"), MALFORMED),
    "Content-Length 5.0": (sized("5.0"), MALFORMED),
    "Content-Length 0x5": (sized("0x5"), MALFORMED),
    "Content-Length twice": (sized(f"5\r\nContent-Length: {len(PART)}"), MALFORMED),
    "Content-Length as a list": (sized("5, 5"), MALFORMED),
    "chunks": (chunked(chunk() + chunk(b"")), FINE),
    "chunks and a trailer": (chunked(chunk() + b"0\r\nX-a: b\r\n\r\n"), FINE),
    "Content-Length and chunks": (chunked(chunk() + chunk(b""), BOTH), MALFORMED),
    "a request hidden behind chunks": (chunked(chunk(b"") + GET, BOTH), MALFORMED),
    "chunked, identity": (chunked(chunk(b""), CHUNKED[:-2] + b", identity\r\n"), MALFORMED),
    "Transfer-Encoding twice": (chunked(chunk(b""), 2 * CHUNKED), MALFORMED),
    "Transfer-Encoding : chunked": (chunked(chunk(b""), CHUNKED.replace(b":", b" :")), MALFORMED),
    "xchunked": (chunked(chunk(b""), CHUNKED.replace(b" ", b" x")), MALFORMED),
    "chunk size zz": (chunked(b"zz\r\n" + PART), MALFORMED),
    "chunk size -1": (chunked(b"-1\r\n" + PART), MALFORMED),
    "chunk size of 17 digits": (chunked(b"f" * 17 + b"\r\n"), MALFORMED),
    "chunk longer than its size": (chunked(b"3\r\n" + PART), MALFORMED),
    "line feeds alone": (GET.replace(b"\r\n", b"\n"), MALFORMED),
    "folded header": (GET[:-2] + b"X: a\r\n b\r\n\r\n", MALFORMED),
    "null in a header": (GET[:-2] + b"X: a\0b\r\n\r\n", MALFORMED),
    "path not ASCII": (GET.replace(b"livez", b"\xff"), MALFORMED),
    "another protocol": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500), MALFORMED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", MALFORMED),
    "a body with an upgrade": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nabcde",
        MALFORMED,
    ),
    "a WebSocket": (
        GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "
        b"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        FINE,
    ),
    "pipelined": (GET * MAX_AHEAD, FINE * MAX_AHEAD),
    "pipelined with bodies": (2 * (sized(len(PART)) + GET), 4 * FINE),
    "long URL": (GET.replace(b"livez", b"a" * MAX_HEAD_BYTES), TOO_LARGE),
    "10,000 headers": (GET[:-2] + b"X-a: b\r\n" * 10_000 + b"\r\n", TOO_LARGE),
    "headers up to the limit": (GET[:-2] + b"X-a: b\r\n" * 7_000 + b"\r\n", FINE),
}


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    with open_server(tiny_bundle, workers=1, timeout=2) as server:
        server.wait()
        yield server


def connect(server: Any) -> socket.socket:
    address = ("127.0.0.1", server.client.base_url.port)
    connection = socket.create_connection(address, timeout=20)
    return connection


def answers_of(received: bytes) -> list[tuple[int, str | None]]:
    """Status and code of each answer in what came over a connection."""
    answers = []
    for answer in re.split(rb"HTTP/1\.1 (?=\d{3} )", received)[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        code = json.loads(body)["error"]["code"] if b'"error"' in body else None
        answers.append((int(head[:3]), code))
    return answers


def exchange(server: Any, request: bytes) -> list[tuple[int, str | None]]:
    with connect(server) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65_536):
                received += block
    return answers_of(received)


@pytest.mark.parametrize(("request_bytes", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_each_has_its_answers_and_the_service_goes_on(
    server: Any, request_bytes: bytes, expected: list[tuple[int, str | None]]
) -> None:
    # The last request asks for the end of the connection, so that its answers are complete.
    last = request_bytes.rfind(b"Host: a\r\n")
    request = request_bytes[:last] + b"Connection: close\r\n" + request_bytes[last:]
    request = request if last > 0 and b"Upgrade" not in request else request_bytes
    assert exchange(server, request) == expected
    assert server.client.post("/predict", data={"text": "seven"}).status_code == 200


def test_they_are_documented(documented: Any) -> None:
    assert documented("HTTP") == {name: answers[0] for name, (_, answers) in REQUESTS.items()}


@pytest.mark.parametrize("request_bytes", [sized(len(PART) + 10), sized(10**18)])
def test_a_body_that_does_not_come_is_a_timeout(server: Any, request_bytes: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(request_bytes)
        received = b""
        # The head and the body of an answer may come apart.
        while b"}}" not in received and (piece := connection.recv(65_536)):
            received += piece
        assert answers_of(received) == [(504, "timeout")]


FLOODS = {
    "a header without an end": (b"GET /livez HTTP/1.1\r\nX: ", b"a" * MEBIBYTE),
    "headers without an end": (b"GET /livez HTTP/1.1\r\n", b"X-a: b\r\n" * 100_000),
    "a URL without an end": (b"GET /", b"a" * MEBIBYTE),
    "trailers without an end": (chunked(chunk() + b"0\r\n"), b"X-a: b\r\n" * 100_000),
    "a trailer without an end": (chunked(chunk() + b"0\r\nX-a: "), b"a" * MEBIBYTE),
    "a chunk's size without an end": (chunked(b"5;"), b"a" * MEBIBYTE),
    "a body without an end": (chunked(b""), chunk(b"a" * MEBIBYTE)),
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


def test_clients_that_leave_their_requests_behind_are_no_failure(server: Any) -> None:
    for _ in range(20):
        with connect(server) as connection:
            connection.sendall(2 * sized(len(PART)))
    assert server.client.get("/livez").status_code == 200
    assert "Traceback" not in server.log()


def test_what_is_no_http_is_counted(server: Any) -> None:
    def count() -> float:
        lines = server.client.get("/metrics").text.splitlines()
        named = 'dimml_requests_total{status="431"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(named))

    before = count()
    with connect(server) as connection:
        connection.sendall(GET.replace(b"livez", b"a" * MAX_HEAD_BYTES))
        connection.recv(1000)
    assert count() == before + 1


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
            assert answers_of(await peer.ends_with()) == [(408, "timeout")]

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
            peer.writer.write(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            assert (await peer.reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
            assert await peer.ends_with() == b""

        with_peer(act)

    def test_an_answer_may_take_longer(self) -> None:
        async def act(peer: Peer) -> None:
            peer.writer.write(GET.replace(b"livez", b"slow"))
            assert (await peer.ends_with()).endswith(b"done")

        with_peer(act)


def test_who_does_not_take_refusals_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedProtocol, "shed", staticmethod(lambda *_: b"x" * 200))

    async def act(peer: Peer) -> None:
        peer.writer.write(b"POST /predict HTTP/1.1\r\n\r\n" * 1_000_000)
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
