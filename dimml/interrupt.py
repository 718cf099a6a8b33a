"""Ctrl-C and SIGTERM: the only place where commands handle signals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from dimml.progress import print_status


def sigterm_as_ctrl_c() -> AbstractContextManager[None]:
    """Raise `KeyboardInterrupt` on SIGTERM inside the block, as Python does on Ctrl-C."""
    return _handling(signal.default_int_handler, signal.SIGTERM)


@contextmanager
def stop_on_signal(message: str, interrupted: Callable[[], Exception]) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets, so that the block can end in order.

    Args:
        message: Line to print at the first signal.
        interrupted: Factory of the exception that the second signal raises.
    """
    stop = threading.Event()

    def handle(*_: object) -> None:
        if stop.is_set():
            raise interrupted()
        stop.set()
        print_status(message)

    with _handling(handle, signal.SIGINT, signal.SIGTERM):
        yield stop


@contextmanager
def _handling(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    # Only the main thread may install signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)
