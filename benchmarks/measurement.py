"""Measure the memory of process trees, and the time of functions that are called in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psutil


def tree_memory_mib(process: psutil.Process) -> float:
    """Return the memory of a process and its descendants, with shared pages counted once."""
    total = 0
    # A process may end between being listed and being read.
    with suppress(psutil.Error):
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += member.memory_full_info().pss
    return total / 2**20


@contextmanager
def memory_samples(process: psutil.Process, interval_seconds: float) -> Iterator[list[float]]:
    """Sample the memory of a process tree during the block.

    Yields:
        The samples so far in MiB; never empty.
    """
    samples = [tree_memory_mib(process)]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(interval_seconds):
            samples.append(tree_memory_mib(process))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def time_in_turn(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Call functions in turn, so that noise of the machine affects them alike.

    Args:
        runs: Name to a function that returns when its work is complete.
        seconds: Time that each function gets in total.

    Returns:
        The seconds of each call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    spent = dict.fromkeys(runs, 0.0)
    while waiting := [name for name in runs if spent[name] < seconds]:
        for name in waiting:
            started = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - started)
            spent[name] += times[name][-1]
    return times
