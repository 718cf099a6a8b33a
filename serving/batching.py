"""In-process micro-batching: whatever waits when the worker is free is computed together."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
IsGone = Callable[[], Awaitable[bool]]

TURNS = 3
"""Turns of the event loop before a batch is taken: answers are written, what has arrived joins."""

PATIENCE = 0.1
"""Seconds in the queue after which a client is asked whether it still waits."""

TIGHT_SECONDS = 2.0
"""How long a queue stays short after more were refused than computed."""


class QueueFull(Exception):  # noqa: N818 (as in the standard library)
    """No more can wait; try again shortly."""


class Abandoned(Exception):  # noqa: N818
    """The client left before its turn came."""


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    is_gone: IsGone | None
    since: float


class Batcher(Generic[Item, Result]):
    """Computes items in batches, without a timer: none waits for others to come.

    Belongs to one event loop. While a batch is computed in a thread, new items queue; when the
    thread is free, all that wait are taken, up to `most`. Items whose caller was cancelled, or
    whose client is gone, are dropped before they cost anything.

    While far more is asked than can be computed, one item may wait beside a full batch: a long
    queue would only make each wait longer. Every `TIGHT_SECONDS` its whole length is tried again,
    for clients that ask again at once keep a short one full though there are few of them.

    Args:
        compute: a batch to its results, in order. Where it raises, each item is computed alone,
            so that one that breaks it does not fail its neighbours.
        most: items in a batch.
        capacity: items that may wait beside a full batch.
        report_depth: Called with the number of waiting items when a batch is taken.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        most: int,
        capacity: int,
        report_depth: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute = compute
        self._report_depth = report_depth
        self._most = most
        self._capacity = capacity
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._running: asyncio.Task[None] | None = None
        self._computing = 0
        self._refused = 0
        self._is_tight = False
        self._tight_until = 0.0

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def room(self) -> int:
        """Items that could be submitted now; the places that a small batch leaves are free."""
        is_tight = self._is_tight and time.monotonic() < self._tight_until
        capacity = min(1, self._capacity) if is_tight else self._capacity
        return capacity + self._most - len(self._queue) - self._computing

    def note_refusal(self) -> None:
        """Counts one that was not submitted for want of room."""
        self._refused += 1

    async def submit(self, item: Item, is_gone: IsGone | None = None) -> Result:
        """The result of one item.

        Args:
            item: what to compute.
            is_gone: asked of an item that has waited long: whether nobody waits for it any more.

        Raises:
            QueueFull: as many items as may wait do.
            Abandoned: `is_gone` said so.
        """
        if self.room <= 0:
            self.note_refusal()
            raise QueueFull
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, future, is_gone, time.monotonic()))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    def close(self) -> None:
        """Ends the thread, after the batch it computes."""
        self._thread.shutdown(wait=False)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := await self._take():
                items = [waiting.item for waiting in batch]
                self._computing = len(items)
                outcomes = await loop.run_in_executor(self._thread, self._outcomes, items)
                self._computing = 0
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    if waiting.future.done():
                        continue
                    if isinstance(outcome, Exception):
                        waiting.future.set_exception(outcome)
                    else:
                        waiting.future.set_result(outcome)
        finally:
            self._running = None

    async def _take(self) -> list[_Waiting[Item, Result]]:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self._adapt()
        batch: list[_Waiting[Item, Result]] = []
        late = time.monotonic() - PATIENCE
        while self._queue and len(batch) < self._most:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if waiting.is_gone and waiting.since < late and await waiting.is_gone():
                waiting.future.set_exception(Abandoned())
                continue
            batch.append(waiting)
        self._report_depth(len(self._queue))
        return batch

    def _adapt(self) -> None:
        """Decides for the next batch how many may wait."""
        now = time.monotonic()
        if self._is_tight:
            self._is_tight = now < self._tight_until
        elif self._refused > self._most:
            self._is_tight, self._tight_until = True, now + TIGHT_SECONDS
        self._refused = 0

    def _outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        try:
            return self._compute(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [outcome for item in items for outcome in self._outcomes([item])]
