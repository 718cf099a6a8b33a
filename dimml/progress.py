"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

PLAIN_INTERVAL_SECONDS = 10.0


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items` unchanged while showing progress on standard error.

    Args:
        items: what to go through.
        description: what is being done, in a few words.
        total: how many there are; taken from `len(items)` where it has one.
    """
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    return (_bar if sys.stderr.isatty() else _lines)(items, description, total)


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    yield from rich_track(items, description, total, console=Console(stderr=True))


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = said = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        if time.monotonic() - said >= PLAIN_INTERVAL_SECONDS:
            said = time.monotonic()
            print_status(f"{description}: {done}{f' of {total}' if total is not None else ''}")
    print_status(f"{description}: {done} in {time.monotonic() - started:.1f} s")


def print_status(line: str) -> None:
    """Writes one line of news to standard error, which leaves standard output to results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
