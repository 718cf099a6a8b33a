"""The engine of one machine: processes that each score whole windows, ahead of the one needed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from dimml.errors import DimmlError
from serving.batch.inputs import Inputs, ScoreRow, Window
from serving.batch.job import Job, Part
from serving.batch.scorer import Scorer, joined

AHEAD = 3
"""Windows that are read and wait, or are computed, for each process."""


class Local:
    """Scores in processes of this machine.

    Args:
        bundle: its folder.
        workers: processes.
        devices: GPUs that they share out.
    """

    def __init__(self, bundle: Path, workers: int, devices: int) -> None:
        self._bundle, self._workers, self._devices = bundle, workers, devices

    def score(
        self, inputs: Inputs, job: Job, schema: pa.Schema, done: Collection[int], total: int
    ) -> Iterator[Part]:
        """The parts that are not done, in order, each with its windows as they are scored.

        Args:
            inputs: the tables.
            job: the settings.
            schema: of the output.
            done: numbers of parts to leave out.
            total: rows of the tables.

        Raises:
            DimmlError: a process died.
        """
        start = next(number for number in range(len(done) + 1) if number not in done)
        windows = inputs.windows(job.part_rows, job.window_rows, start=start, done=done)
        scored = self._scored(windows, job, schema)
        for number, found in groupby(scored, lambda pair: pair[0]):
            yield number, (table for _, table in found)

    def _scored(
        self, windows: Iterator[Window], job: Job, schema: pa.Schema
    ) -> Iterator[tuple[int, pa.Table]]:
        context = multiprocessing.get_context("spawn")
        turns = context.Value("i", 0)
        arguments = (str(self._bundle), job, turns, self._devices)
        pool = ProcessPoolExecutor(self._workers, context, _start, arguments)
        pending: deque[tuple[Window, Future[bytes]]] = deque()

        def finished() -> tuple[int, pa.Table]:
            window, future = pending.popleft()
            return window.part, joined(_read(window, future), window.kept, schema)

        try:
            for window in windows:
                pending.append((window, pool.submit(_score, window.rows)))
                if len(pending) >= AHEAD * self._workers:
                    yield finished()
            while pending:
                yield finished()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(window: Window, future: Future[bytes]) -> pa.RecordBatch:
    try:
        content = future.result()
    except BrokenProcessPool as error:
        raise DimmlError(
            f"a process died while it scored rows near {window.rows[0].id!r} of part "
            f"{window.part}: it may have run out of memory (fewer --workers, smaller "
            "--window-rows), or one of the files crashes its decoder"
        ) from error
    return pa.ipc.open_stream(content).read_next_batch()


_SCORER: Scorer | None = None


def _start(bundle: str, job: Job, turns: Any, devices: int) -> None:
    """Readies a process; it ends with its parent, however that ends."""
    global _SCORER
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with turns.get_lock():
        turn, turns.value = turns.value, turns.value + 1
    _SCORER = Scorer(Path(bundle), job, turn % devices)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _score(rows: Sequence[ScoreRow]) -> bytes:
    assert _SCORER is not None
    batch = _SCORER.score(rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content
