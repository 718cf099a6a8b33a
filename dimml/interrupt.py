"""Ctrl-C and SIGTERM: the one place that handles signals of the commands."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dimml.progress import print_status


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise `KeyboardInterrupt` for SIGTERM, as Python does for Ctrl-C, inside the block."""
    with _handling(signal.default_int_handler, signal.SIGTERM):
        yield


@contextmanager
def stop_on_signal(
    stopping: str, interrupted: Callable[[], Exception]
) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets, so that the block can end in order.

    Args:
        stopping: the message to print at the first signal.
        interrupted: makes the exception that a second signal raises.
    """
    stop = threading.Event()

    def handle(*_: object) -> None:
        if stop.is_set():
            raise interrupted()
        stop.set()
        print_status(stopping)

    with _handling(handle, signal.SIGINT, signal.SIGTERM):
        yield stop


@contextmanager
def _handling(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    # Python lets only the main thread handle signals; in any other the block runs as it is.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
