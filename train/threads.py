"""Work on many items in threads, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from dimml.machine import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield the result of a function for each item, in order, computed in one thread per core.

    The decoders and numpy release the interpreter lock, so the threads run in parallel.

    Args:
        function: Computes the result of an item.
        items: The items, read as their turn comes.
        ahead: Items whose results wait while the caller is busy.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(available_cores())
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error or Ctrl-C, items that wait are not computed.
        pool.shutdown(cancel_futures=True)
