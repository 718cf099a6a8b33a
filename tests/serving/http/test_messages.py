"""The limit on the bodies that a worker reads at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from serving.capacity import get_capacity
from serving.http.messages import PredictRequest, Submission
from serving.settings import get_settings

MAX_BODY_BYTES = 1_000


@pytest.fixture(autouse=True)
def _queue_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DIMML_MAX_BODY_BYTES", str(MAX_BODY_BYTES))
    monkeypatch.setenv("DIMML_QUEUE", "1")
    monkeypatch.setenv("DIMML_PROVIDERS", "cpu")
    get_settings.cache_clear()
    get_capacity.cache_clear()
    yield
    get_settings.cache_clear()
    get_capacity.cache_clear()


class Client:
    """Sends a body in pieces.

    Attributes:
        submission: The future parsed request, or None if the service refuses the body.
    """

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "http", "headers": [], "query_string": b""}
        request = Request(scope, self._pieces.get)
        self.submission = asyncio.ensure_future(PredictRequest.from_http_request(request, None))

    async def send(self, size: int, *, more: bool = True) -> None:
        await self._pieces.put({"type": "http.request", "body": b"x" * size, "more_body": more})
        await asyncio.sleep(0.01)


def test_bodies_being_read_share_one_limit() -> None:
    async def run() -> None:
        slow, second = Client(), Client()
        await slow.send(600)
        await second.send(600)
        assert second.submission.result().status_code == 503
        third = Client()
        await third.send(300, more=False)
        await slow.send(300, more=False)
        for client, size in ((third, 300), (slow, 900)):
            submission = client.submission.result()
            assert isinstance(submission, Submission)
            assert len(submission.request.body) == size
        last = Client()
        await last.send(MAX_BODY_BYTES, more=False)
        assert isinstance(last.submission.result(), Submission)

    asyncio.run(run())


def test_client_that_leaves_returns_its_share_of_the_limit() -> None:
    async def run() -> None:
        leaving = Client()
        await leaving.send(900)
        leaving.submission.cancel()
        await asyncio.sleep(0.01)
        other = Client()
        await other.send(900, more=False)
        assert isinstance(other.submission.result(), Submission)

    asyncio.run(run())
