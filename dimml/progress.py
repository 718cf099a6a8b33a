"""Progress of long work: a bar on a terminal, occasional plain lines elsewhere."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

PLAIN_INTERVAL_SECONDS = 10.0


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged and show progress on standard error.

    Args:
        items: Items to iterate over.
        description: Name of the work, in a few words.
        total: Number of items. The default is `len(items)` if `items` has a length.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    return (_bar if sys.stderr.isatty() else _lines)(items, description, total)


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total, console=Console(stderr=True))


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = last_printed = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - last_printed >= PLAIN_INTERVAL_SECONDS:
            last_printed = time.monotonic()
            print_status(f"{description}: {done}{f' of {total}' if total is not None else ''}")
    print_status(f"{description}: {done} in {time.monotonic() - started:.1f} s")


def print_status(line: str) -> None:
    """Write one line to standard error, because standard output is reserved for results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@functools.lru_cache(maxsize=1024)
def print_once(line: str) -> None:
    """Write a line to standard error, unless this process has written it before.

    A table is read several times, and each reading finds the same peculiarities.
    """
    print_status(line)
