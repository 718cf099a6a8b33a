"""Run several Python commands at a time, each on one thread, and stop all of them together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dimml.errors import InterruptedRunError
from dimml.interrupt import stop_on_signal
from dimml.progress import print_status

POLL_SECONDS = 0.2
STOP_SECONDS = 60.0
"""A command that has not ended this long after it was asked to stop is killed."""
_SHOWN = re.compile(r"(run|seed|all|failed|trial|error|encoding)\b")


def run_parallel(
    commands: Mapping[str, Sequence[str]], logs: Mapping[str, Path], workers: int
) -> list[str]:
    """Run commands in the order given, and print their main lines.

    Args:
        commands: Name to the arguments of the Python interpreter.
        logs: Name to the file to which all lines of the command are appended.
        workers: The number of commands at a time.

    Returns:
        The names of the commands that failed.

    Raises:
        InterruptedRunError: If Ctrl-C or SIGTERM stopped the commands.
    """
    waiting, running, failed = list(commands), dict[str, _Command](), list[str]()
    total, started = len(commands), time.monotonic()
    message = "stopping; a second Ctrl-C does not wait"
    with stop_on_signal(message, _interrupted) as stop:
        try:
            while (waiting or running) and not stop.is_set():
                while waiting and len(running) < workers:
                    name = waiting.pop(0)
                    running[name] = _Command(name, commands[name], logs[name])
                time.sleep(POLL_SECONDS)
                for name in [name for name, one in running.items() if one.ended]:
                    if code := running.pop(name).finish():
                        failed.append(name)
                        print_status(f"{name}: exit code {code}; all its lines: {logs[name]}")
                    done = total - len(waiting) - len(running)
                    minutes = (time.monotonic() - started) / 60
                    print_status(f"{name}: ended; {done} of {total} in {minutes:.0f} min")
        finally:
            _stop(running.values())
    if stop.is_set():
        raise _interrupted()
    return failed


class _Command:
    """A running command, and the thread that reads its lines."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # Ctrl-C on the terminal reaches this process alone, which stops the command.
            start_new_session=True,
        )
        log.parent.mkdir(parents=True, exist_ok=True)
        self._reader = threading.Thread(target=self._read, args=(name, log), daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def finish(self) -> int:
        """Wait for the last lines of an ended command, and return its exit code."""
        self._reader.join()
        return self.process.wait()

    def _read(self, name: str, log: Path) -> None:
        assert self.process.stdout is not None
        with log.open("a", encoding="utf-8") as file:
            for line in self.process.stdout:
                file.write(line)
                file.flush()
                if _SHOWN.match(line):
                    print_status(f"{name}: {line.rstrip()}")


def _stop(commands: Iterable[_Command]) -> None:
    listed = list(commands)
    for one in listed:
        one.process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for one in listed:
        try:
            one.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.process.kill()
        one.finish()


def _interrupted() -> InterruptedRunError:
    return InterruptedRunError("stopped; the same command goes on")
