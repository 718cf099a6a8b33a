"""The micro-batcher: no timer, nobody fails for a neighbour, nobody computes for nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

import serving.batching
from serving.batching import Abandoned, Batcher, QueueFull


class Work:
    """Doubles numbers once it is let go, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.gate.wait(10)
        if 13 in items:
            raise RuntimeError("unlucky")
        self.batches.append(list(items))
        return [2 * item for item in items]


async def busy(work: Work, batcher: Batcher[int, int]) -> asyncio.Task[int]:
    """Makes the thread busy with an item 0, until the gate is opened."""
    work.gate.clear()
    work.begun.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(work.begun.wait, 10)
    return first


def test_one_item_is_computed_at_once() -> None:
    work = Work()
    assert asyncio.run(Batcher(work, 4, 10).submit(21)) == 42
    assert work.batches == [[21]]


def test_what_waits_is_taken_together_up_to_the_most_and_in_order() -> None:
    work = Work()

    async def run() -> list[int]:
        batcher = Batcher(work, 4, 10)
        first = await busy(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        assert batcher.depth == 6
        work.gate.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(run()) == [0, 2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_one_that_breaks_a_batch_does_not_fail_its_neighbours() -> None:
    work = Work()

    async def run() -> list[int | BaseException]:
        batcher = Batcher(work, 4, 10)
        first = await busy(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in (1, 13, 3)]
        await asyncio.sleep(0)
        work.gate.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    zero, one, unlucky, three = asyncio.run(run())
    assert [zero, one, three] == [0, 2, 6]
    assert isinstance(unlucky, RuntimeError)


def test_a_full_queue_refuses_at_once_and_takes_again_when_it_has_room() -> None:
    work = Work()

    async def run() -> int:
        batcher = Batcher(work, 2, 3)
        first = await busy(work, batcher)
        # Three may wait beside a batch of two, which has one place left.
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


def test_while_more_are_refused_than_computed_only_one_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving.batching, "SHORT_QUEUE_SECONDS", 60.0)
    work = Work()

    async def run() -> None:
        batcher = Batcher(work, 2, 3)
        first = await busy(work, batcher)
        waiting = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        batcher.note_refusal()
        batcher.note_refusal()
        with pytest.raises(QueueFull):
            await batcher.submit(5)
        work.gate.set()
        await asyncio.gather(first, *waiting)
        assert batcher.room == 3
        # What is refused meanwhile does not count: few clients that ask again at once would
        # otherwise keep it short for ever.
        for _ in range(100):
            batcher.note_refusal()
        monkeypatch.setattr(serving.batching.time, "monotonic", lambda: now + 61)
        assert batcher.room == 5
        await batcher.submit(6)
        assert batcher.room == 5

    now = serving.batching.time.monotonic()
    asyncio.run(run())


def test_a_few_refusals_leave_the_queue_as_it_is() -> None:
    work = Work()

    async def run() -> None:
        batcher = Batcher(work, 2, 3)
        batcher.note_refusal()
        batcher.note_refusal()
        await batcher.submit(1)
        batcher.note_refusal()
        await batcher.submit(2)
        assert batcher.room == 5

    asyncio.run(run())


def test_a_caller_that_was_cancelled_costs_nothing() -> None:
    work = Work()

    async def run() -> None:
        batcher = Batcher(work, 4, 10)
        first = await busy(work, batcher)
        kept, dropped = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
        await asyncio.sleep(0)
        dropped.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        await asyncio.gather(first, kept)

    asyncio.run(run())
    assert work.batches == [[0], [1]]


def test_a_client_that_left_while_it_waited_long_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = Work()

    async def gone() -> bool:
        return True

    async def run(patience: float) -> None:
        monkeypatch.setattr(serving.batching, "CLIENT_CHECK_SECONDS", patience)
        batcher = Batcher(work, 4, 10)
        first = await busy(work, batcher)
        left = asyncio.create_task(batcher.submit(1, gone))
        await asyncio.sleep(0.02)
        work.gate.set()
        _, outcome = await asyncio.gather(first, left, return_exceptions=True)
        assert isinstance(outcome, Abandoned) == (patience == 0.01)

    asyncio.run(run(60.0))
    asyncio.run(run(0.01))
    assert work.batches == [[0], [1], [0]]


def test_a_result_that_comes_after_its_caller_left_is_dropped() -> None:
    work = Work()

    async def run() -> int:
        batcher = Batcher(work, 4, 10)
        first = await busy(work, batcher)
        first.cancel()
        await asyncio.sleep(0)
        work.gate.set()
        return await batcher.submit(2)

    assert asyncio.run(run()) == 4


def test_depth_is_reported_whenever_a_batch_is_taken() -> None:
    work = Work()
    depths: list[int] = []

    async def run() -> None:
        batcher = Batcher(work, 4, 10, depths.append)
        first = await busy(work, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 7)]
        await asyncio.sleep(0)
        work.gate.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert depths[:3] == [0, 2, 0]
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
    assert depths == [1, 0]
