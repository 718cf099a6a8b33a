"""Score on one machine: processes score whole windows, ahead of the window that is written next."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from dimml.errors import DimmlError, InputError
from dimml.progress import print_status
from serving.offline.inputs import Inputs, RowWindow, ScoreRow
from serving.offline.scorer import Scorer, from_stream, to_stream
from serving.offline.workspace import Job, ScoredPart

WINDOWS_PER_MESSAGE = 4
"""Windows that one message takes to a process; each message costs this process time."""

MESSAGES_PER_PROCESS = 2
"""Messages that a process has at a time: one that it computes, and one that waits."""

PROCESS_DIED = InputError(
    "unreadable",
    "the process that scored this row died: the row may take too much memory or crash its decoder",
)


class LocalEngine:
    """Scores in processes of this machine.

    Args:
        bundle: Folder of the bundle.
        workers: Number of processes.
        devices: Number of GPUs that the processes share.
    """

    def __init__(self, bundle: Path, workers: int, devices: int) -> None:
        self._bundle, self._workers, self._devices = bundle, workers, devices

    def score(
        self, inputs: Inputs, job: Job, schema: pa.Schema, done: Collection[int], total: int
    ) -> Iterator[ScoredPart]:
        """Yield the parts of the inputs that are not done, in order.

        The tables of a part appear as they are scored, in the columns of `schema`.

        Raises:
            DimmlError: If the processes die without a row that causes it.
        """
        start = next(number for number in range(len(done) + 1) if number not in done)
        windows = inputs.windows(job.part_rows, job.window_rows, start=start, done=done)
        scored = self._scored_messages(windows, job, schema)
        for number, pairs in groupby(scored, lambda pair: pair[0]):
            yield number, (table for _, table in pairs)

    def _scored_messages(
        self, windows: Iterator[RowWindow], job: Job, schema: pa.Schema
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield the part number and the output of each message, in order."""
        pool = self._pool(job, self._workers)
        pending: deque[tuple[Sequence[RowWindow], Future[bytes]]] = deque()

        def submit(message: Sequence[RowWindow]) -> Future[bytes]:
            try:
                return pool.submit(_score_windows, [window.rows for window in message])
            except BrokenProcessPool as error:
                failed: Future[bytes] = Future()
                failed.set_exception(error)
                return failed

        def first_result() -> tuple[int, pa.Table]:
            nonlocal pool
            message, future = pending.popleft()
            try:
                scores = from_stream(future.result())
            except BrokenProcessPool:
                scores = pa.concat_tables(self._score_again(job, w.rows) for w in message)
                # One dead process fails every pending message, so a new pool takes them.
                pool = self._pool(job, self._workers)
                for position, (other, _) in enumerate(pending):
                    pending[position] = other, submit(other)
            kept = pa.concat_tables(window.kept for window in message)
            return message[0].part, pa.table([*scores.columns, *kept.columns], schema=schema)

        try:
            for message in _messages(windows):
                pending.append((message, submit(message)))
                if len(pending) >= MESSAGES_PER_PROCESS * self._workers:
                    yield first_result()
            while pending:
                yield first_result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _score_again(self, job: Job, rows: Sequence[ScoreRow]) -> pa.Table:
        """Score rows whose process died, by halves, until only the row that kills it has an error.

        Raises:
            DimmlError: If a process dies though it has no row to decode.
        """
        with self._pool(job, 1) as pool:
            try:
                return from_stream(pool.submit(_score_windows, [rows]).result())
            except BrokenProcessPool as error:
                if isinstance(rows[0].sample, InputError):
                    raise DimmlError("the processes that score die as they start") from error
        if len(rows) == 1:
            print_status(f"row {rows[0].id}: the process that scored it died")
            return self._score_again(job, [ScoreRow(rows[0].id, PROCESS_DIED)])
        middle = len(rows) // 2
        halves = (rows[:middle], rows[middle:])
        return pa.concat_tables(self._score_again(job, half) for half in halves)

    def _pool(self, job: Job, workers: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        arguments = (str(self._bundle), job, context.Value("i", 0), self._devices)
        return ProcessPoolExecutor(workers, context, _start_process, arguments)


def _messages(windows: Iterator[RowWindow]) -> Iterator[list[RowWindow]]:
    """Yield windows in groups for one message each, none of which crosses a part."""
    for _, part_windows in groupby(windows, lambda window: window.part):
        while message := list(islice(part_windows, WINDOWS_PER_MESSAGE)):
            yield message


_SCORER: Scorer | None = None


def _start_process(bundle: str, job: Job, started: Any, devices: int) -> None:
    """Load the bundle in a new process; `started` counts the processes, to share out the GPUs."""
    global _SCORER
    # Ctrl-C reaches every process of the terminal, and the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    _SCORER = Scorer(Path(bundle), job, number % devices)


def _end_with_parent() -> None:
    # A parent that is killed cannot end its processes, which would wait for messages forever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _score_windows(windows: Sequence[Sequence[ScoreRow]]) -> bytes:
    assert _SCORER is not None
    batches = [_SCORER.score(rows) for rows in windows]
    return to_stream(batches, batches[0].schema)
