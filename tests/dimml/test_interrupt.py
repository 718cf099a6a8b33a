"""The signal handlers of commands that stop in order."""

from __future__ import annotations

import signal
import threading

import pytest

from dimml.interrupt import sigterm_as_ctrl_c, stop_on_signal

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_first_signal_sets_the_event_and_prints_the_message(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with stop_on_signal("stopping", KeyError) as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
    assert capsys.readouterr().err == "stopping\n"


def test_second_signal_raises_the_exception() -> None:
    with stop_on_signal("stopping", KeyError):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyError):
            signal.raise_signal(signal.SIGTERM)


def test_sigterm_raises_keyboard_interrupt() -> None:
    with sigterm_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_handlers_are_restored_after_an_exception() -> None:
    before = handlers()
    during = []

    def fail() -> None:
        with stop_on_signal("stopping", KeyError):
            during.extend(handlers())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert handlers() == before != during


def test_other_thread_does_not_change_the_handlers() -> None:
    before, during = handlers(), []

    def work() -> None:
        with stop_on_signal("stopping", KeyError), sigterm_as_ctrl_c():
            during.extend(handlers())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == before
