"""In-process micro-batching: the items that queue while one batch is computed form the next."""

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

LOOP_ITERATIONS_BEFORE_BATCH = 3
"""Iterations of the event loop before a batch is taken."""

CLIENT_CHECK_SECONDS = 0.1
"""Time in the queue after which the batcher checks whether the client is still connected."""

SHORT_QUEUE_SECONDS = 2.0
"""Time for which the queue stays short after an overload."""


class QueueFull(Exception):  # noqa: N818 (as in the standard library)
    """The queue is full; a later attempt may succeed."""


class Abandoned(Exception):  # noqa: N818
    """The client disconnected before its item was computed."""


@dataclass(slots=True)
class _QueuedItem(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    is_gone: IsGone | None
    queued_at: float


class Batcher(Generic[Item, Result]):
    """Compute items in batches without waiting for a batch to fill.

    A batcher belongs to one event loop. New items queue while all threads are busy. When a thread
    is free, it takes all queued items, up to `max_batch`. Items whose caller was cancelled or whose
    client has disconnected are dropped before they are computed.

    During an overload, only one item may wait beside a full batch, because a longer queue would
    add latency but no throughput. An overload begins when more items are refused than a batch
    holds. The short queue ends after `SHORT_QUEUE_SECONDS`, because a few clients that retry at
    once are enough to keep a queue of one item full.

    Args:
        compute: Computes a batch and returns its results in order. If a batch raises an exception,
            each of its items is computed alone, so that a bad item does not fail the others.
        max_batch: Maximum number of items in a batch.
        capacity: Maximum number of items that wait beside a full batch.
        report_depth: Receives the number of items that wait each time it changes.
        threads: Number of batches that are computed at once.
        max_seconds: Time that a batch may take, judged by the batches before it. One item is always
            computed. Without a limit, the requests that wait for a slow encoder would all be
            computed and answered together, however early the first of them arrived.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        max_batch: int,
        capacity: int,
        report_depth: Callable[[int], None] = lambda depth: None,
        threads: int = 1,
        max_seconds: float | None = None,
    ) -> None:
        self._compute = compute
        self._max_seconds = max_seconds
        self._seconds_per_item = 0.0
        self._max_batch = max_batch
        self._capacity = capacity
        self._report_depth = report_depth
        self._queue: deque[_QueuedItem[Item, Result]] = deque()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._drains: set[asyncio.Task[None] | None] = set()
        self._computing = 0
        self._batch_done = asyncio.Event()
        self._refused = 0
        self._is_short = False
        self._short_until = 0.0

    @property
    def depth(self) -> int:
        """Number of items that wait."""
        return len(self._queue)

    @property
    def room(self) -> int:
        """Number of items that `submit` accepts now, including free places in the batches."""
        is_short = self._is_short and time.monotonic() < self._short_until
        capacity = min(1, self._capacity) if is_short else self._capacity
        return capacity + self._threads * self._max_batch - len(self._queue) - self._computing

    def note_refusal(self) -> None:
        """Count an item that the caller refused for lack of room without submitting it."""
        self._refused += 1

    async def wait_for_spare_room(self) -> None:
        """Wait until the queue has more room than half a batch, which is left to single items.

        A caller with many items waits before each of them, so that `enqueue` does not refuse them,
        nor other callers because of them.
        """
        while self.room <= max(1, self._max_batch // 2):
            await self._batch_done.wait()

    async def submit(self, item: Item, is_gone: IsGone | None = None) -> Result:
        """Queue one item and return its result, see `enqueue`."""
        return await self.enqueue(item, is_gone)

    def enqueue(self, item: Item, is_gone: IsGone | None = None) -> asyncio.Future[Result]:
        """Queue one item and return the future of its result, whose cancellation drops the item.

        Args:
            item: The item to compute.
            is_gone: Returns whether the client has disconnected. Called only for an item that has
                waited longer than `CLIENT_CHECK_SECONDS`.

        Raises:
            QueueFull: If the queue has no room. The future raises `Abandoned` if `is_gone` returned
                True.
        """
        if self.room <= 0:
            self.note_refusal()
            raise QueueFull
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(_QueuedItem(item, future, is_gone, time.monotonic()))
        self._report_depth(len(self._queue))
        if len(self._drains) < self._threads:
            self._drains.add(asyncio.create_task(self._drain()))
        return future

    def close(self) -> None:
        """Stop the threads after their current batches, without waiting for them."""
        self._pool.shutdown(wait=False)

    async def _drain(self) -> None:
        """Compute batches until the queue is empty."""
        loop = asyncio.get_running_loop()
        try:
            while batch := await self._take_batch():
                items = [queued.item for queued in batch]
                self._computing += len(items)
                started = loop.time()
                outcomes = await loop.run_in_executor(self._pool, self._compute_outcomes, items)
                self._note_duration((loop.time() - started) / len(items))
                self._computing -= len(items)
                for queued, outcome in zip(batch, outcomes, strict=True):
                    # The caller may have been cancelled while its item was computed.
                    if queued.future.done():
                        continue
                    if isinstance(outcome, Exception):
                        queued.future.set_exception(outcome)
                    else:
                        queued.future.set_result(outcome)
                self._report_room()
        finally:
            self._drains.discard(asyncio.current_task())
            self._report_room()

    def _note_duration(self, seconds: float) -> None:
        """Update the average of seconds per item, in which the last five batches count most."""
        before = self._seconds_per_item
        self._seconds_per_item = before + 0.2 * (seconds - before) if before else seconds

    @property
    def _batch_size(self) -> int:
        """Maximum number of items in the next batch."""
        if self._max_seconds is None or not self._seconds_per_item:
            return self._max_batch
        return max(1, min(self._max_batch, int(self._max_seconds / self._seconds_per_item)))

    def _report_room(self) -> None:
        """Wake the callers that wait for room; each checks whether there is enough."""
        self._batch_done.set()
        self._batch_done.clear()

    async def _take_batch(self) -> list[_QueuedItem[Item, Result]]:
        # Let the loop send finished responses first, and read requests that can join this batch.
        for _ in range(LOOP_ITERATIONS_BEFORE_BATCH):
            await asyncio.sleep(0)
        self._adapt_capacity()
        batch: list[_QueuedItem[Item, Result]] = []
        check_before = time.monotonic() - CLIENT_CHECK_SECONDS
        size = self._batch_size
        while self._queue and len(batch) < size:
            queued = self._queue.popleft()
            if queued.future.done():
                continue
            if queued.is_gone and queued.queued_at < check_before and await queued.is_gone():
                queued.future.set_exception(Abandoned())
                continue
            batch.append(queued)
        self._report_depth(len(self._queue))
        return batch

    def _adapt_capacity(self) -> None:
        """Shorten the queue after an overload, or restore its capacity when the time is over."""
        now = time.monotonic()
        if self._is_short:
            self._is_short = now < self._short_until
        elif self._refused > self._max_batch:
            self._is_short, self._short_until = True, now + SHORT_QUEUE_SECONDS
        self._refused = 0

    def _compute_outcomes(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        """Return a result or an exception for each item, in order."""
        try:
            return self._compute(items)
        except Exception as error:
            if len(items) == 1:
                return [error]
            return [outcome for item in items for outcome in self._compute_outcomes([item])]
