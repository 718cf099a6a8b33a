"""The micro-batcher: batches without a timer, isolated failures and cancelled requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

import serving.batching
from serving.batching import Abandoned, Batcher, QueueFull


class Doubler:
    """Doubles numbers once its gate is open, and records its batches.

    A batch that contains 13 fails.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.started.set()
        assert self.gate.wait(10)
        if 13 in items:
            raise RuntimeError("13 is not accepted")
        self.batches.append(list(items))
        return [2 * item for item in items]


async def block(work: Doubler, batcher: Batcher[int, int]) -> asyncio.Task[int]:
    """Submit an item 0, which occupies the thread until the gate is opened."""
    work.gate.clear()
    work.started.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(work.started.wait, 10)
    return first


def test_one_item_is_computed_without_a_delay() -> None:
    work = Doubler()
    assert asyncio.run(Batcher(work, 4, 10).submit(21)) == 42
    assert work.batches == [[21]]


def test_queued_items_make_full_batches_in_order() -> None:
    work = Doubler()

    async def run() -> list[int]:
        batcher = Batcher(work, 4, 10)
        first = await block(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        assert batcher.depth == 6
        work.gate.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_failing_item_does_not_fail_its_batch() -> None:
    work = Doubler()

    async def run() -> list[int | BaseException]:
        batcher = Batcher(work, 4, 10)
        first = await block(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in (1, 13, 3)]
        await asyncio.sleep(0)
        work.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    zero, one, thirteen, three = asyncio.run(run())
    assert [zero, one, three] == [0, 2, 6]
    assert isinstance(thirteen, RuntimeError)


def test_full_queue_refuses_items_until_it_has_room() -> None:
    work = Doubler()

    async def run() -> int:
        batcher = Batcher(work, 2, 3)
        first = await block(work, batcher)
        # The running batch has one free place, and three items may wait beside it.
        waiting = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        assert batcher.room == 0
        with pytest.raises(QueueFull):
            await batcher.submit(5)
        work.gate.set()
        await asyncio.gather(first, *waiting)
        assert batcher.room == 5
        return await batcher.submit(6)

    assert asyncio.run(run()) == 12


def test_queue_is_short_while_more_items_are_refused_than_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving.batching, "SHORT_QUEUE_SECONDS", 60.0)
    work = Doubler()

    async def run() -> None:
        batcher = Batcher(work, 2, 3)
        first = await block(work, batcher)
        waiting = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        batcher.note_refusal()
        batcher.note_refusal()
        with pytest.raises(QueueFull):
            await batcher.submit(5)
        work.gate.set()
        await asyncio.gather(first, *waiting)
        assert batcher.room == 3
        # Refusals by a short queue do not count: a few clients that retry at once would otherwise
        # keep the queue short for ever.
        for _ in range(100):
            batcher.note_refusal()
        monkeypatch.setattr(serving.batching.time, "monotonic", lambda: now + 61)
        assert batcher.room == 5
        await batcher.submit(6)
        assert batcher.room == 5

    now = serving.batching.time.monotonic()
    asyncio.run(run())


def test_few_refusals_do_not_shorten_the_queue() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = Batcher(work, 2, 3)
        batcher.note_refusal()
        batcher.note_refusal()
        await batcher.submit(1)
        batcher.note_refusal()
        await batcher.submit(2)
        assert batcher.room == 5

    asyncio.run(run())


def test_cancelled_item_is_not_computed() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = Batcher(work, 4, 10)
        first = await block(work, batcher)
        kept, dropped = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        await asyncio.gather(first, kept)

    asyncio.run(run())
    assert work.batches == [[0], [1]]


def test_item_of_a_client_that_left_is_not_computed_after_a_long_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Doubler()

    async def is_gone() -> bool:
        return True

    async def run(seconds: float) -> None:
        monkeypatch.setattr(serving.batching, "CLIENT_CHECK_SECONDS", seconds)
        batcher = Batcher(work, 4, 10)
        first = await block(work, batcher)
        waiting = asyncio.create_task(batcher.submit(1, is_gone))
        await asyncio.sleep(0.02)
        work.gate.set()
        _, outcome = await asyncio.gather(first, waiting, return_exceptions=True)
        assert isinstance(outcome, Abandoned) == (seconds == 0.01)

    asyncio.run(run(60.0))
    asyncio.run(run(0.01))
    assert work.batches == [[0], [1], [0]]


def test_result_of_a_cancelled_caller_is_discarded() -> None:
    work = Doubler()

    async def run() -> int:
        batcher = Batcher(work, 4, 10)
        first = await block(work, batcher)
        first.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        return await batcher.submit(2)

    assert asyncio.run(run()) == 4


def test_depth_is_reported_when_an_item_waits_and_when_a_batch_is_taken() -> None:
    work = Doubler()
    depths: list[int] = []

    async def run() -> None:
        batcher = Batcher(work, 4, 10, depths.append)
        first = await block(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        work.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert depths[:10] == [1, 0, 1, 2, 3, 4, 5, 6, 2, 0]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_depth_of_zero_is_reported_when_the_last_waiting_caller_was_cancelled() -> None:
    depths: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def compute(items: Sequence[int]) -> Sequence[int]:
            loop.call_soon_threadsafe(dropped.cancel)
            return items

        batcher = Batcher(compute, 1, 10, depths.append)
        kept, dropped = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        await asyncio.gather(kept, dropped, return_exceptions=True)
        while depths[-1]:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(run(), 10))
    assert depths == [1, 2, 1, 0]


def test_caller_with_many_items_waits_and_leaves_room_for_others() -> None:
    work = Doubler()

    async def run() -> list[int]:
        batcher = Batcher(work, 4, 4)
        futures: list[asyncio.Future[int]] = []

        async def enqueue_all() -> None:
            for item in range(14, 40):
                await batcher.wait_for_spare_room()
                futures.append(batcher.enqueue(item))

        first = await block(work, batcher)
        many = asyncio.create_task(enqueue_all())
        await asyncio.sleep(0.02)
        # Half a batch of room is left.
        assert batcher.room == 2
        single = asyncio.create_task(batcher.submit(100))
        await asyncio.sleep(0)
        work.gate.set()
        assert await single == 200
        await many
        return [await first, *[await future for future in futures]]

    assert asyncio.run(run()) == [0, *range(28, 80, 2)]


def test_waiting_for_room_ends_when_all_queued_items_were_cancelled() -> None:
    work = Doubler()

    async def run() -> None:
        batcher = Batcher(work, 1, 1)
        first = await block(work, batcher)
        queued = batcher.enqueue(1)
        waiting = asyncio.create_task(batcher.wait_for_spare_room())
        await asyncio.sleep(0)
        queued.cancel()
        work.gate.set()
        await asyncio.wait_for(waiting, 5)
        await first

    asyncio.run(run())


@pytest.mark.parametrize(("max_batch", "capacity"), [(1, 1), (2, 1), (16, 16), (16, 1)])
def test_an_empty_queue_has_spare_room(max_batch: int, capacity: int) -> None:
    async def run() -> None:
        batcher = Batcher(Doubler(), max_batch, capacity)
        batcher._is_short, batcher._short_until = True, float("inf")
        await asyncio.wait_for(batcher.wait_for_spare_room(), 1)

    asyncio.run(run())
