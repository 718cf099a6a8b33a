"""The micro-batcher with two threads, as on a GPU, and with slow items, as on a CPU."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from serving.batching import Batcher, QueueFull


class PairedDoubler:
    """Doubles numbers in batches that wait for each other in pairs, which one thread never does."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._pair = threading.Barrier(2)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self._pair.wait(10)
        return [2 * item for item in items]


def test_two_threads_compute_two_batches_at_once() -> None:
    work = PairedDoubler()

    async def run() -> list[int]:
        return await asyncio.gather(*map(Batcher(work, 2, 3, threads=2).submit, (1, 2, 3, 4)))

    assert asyncio.run(run()) == [2, 4, 6, 8]
    assert sorted(work.batches) == [[1, 2], [3, 4]]


def test_room_counts_the_places_in_both_batches() -> None:
    async def run() -> None:
        batcher = Batcher(PairedDoubler(), 1, 2, threads=2)
        submitted = [batcher.enqueue(item) for item in range(4)]
        assert batcher.room == 0
        with pytest.raises(QueueFull):
            batcher.enqueue(4)
        assert await asyncio.gather(*submitted) == [0, 2, 4, 6]
        assert batcher.room == 4

    asyncio.run(run())


def test_batches_of_slow_items_are_small() -> None:
    sizes: list[int] = []

    def compute(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(0.02 * len(items))
        return list(items)

    async def submit_all(max_seconds: float | None) -> None:
        sizes.clear()
        batcher = Batcher(compute, max_batch=8, capacity=8, max_seconds=max_seconds)
        await asyncio.gather(*(batcher.submit(n) for n in range(8)))
        await asyncio.gather(*(batcher.submit(n) for n in range(8)))
        batcher.close()

    asyncio.run(submit_all(max_seconds=0.05))
    # Nothing is known about the first batch.
    assert sizes[0] == 8
    assert max(sizes[1:]) <= 2
    asyncio.run(submit_all(max_seconds=0.001))
    assert sizes[1:] == [1] * 8
    asyncio.run(submit_all(max_seconds=None))
    assert sizes == [8, 8]
