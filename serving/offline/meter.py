"""How far a job is: a bar on a terminal, a line now and then elsewhere, or events for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from dimml.progress import PLAIN_INTERVAL_SECONDS, print_status

EVENT_INTERVAL_SECONDS = 1.0


class Meter:
    """Counts rows and errors, and shows them with the speed and the time left.

    Args:
        total: rows of the job.
        done: rows that were there before.
        errors: of those.
        as_json: whether to write events to standard output in place of progress.
    """

    def __init__(self, total: int, done: int, errors: int, as_json: bool) -> None:
        self.total, self.done, self.errors = total, done, errors
        self.scored = 0
        self._as_json = as_json
        self._started = self._reported = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Meter:
        if not self._as_json and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def rows_per_second(self) -> float:
        """Of this run; rows that were there before do not count."""
        return self.scored / max(self.seconds, 1e-9)

    def add(self, rows: int, errors: int) -> None:
        """Takes rows that were scored, some of them with errors."""
        self.done += rows
        self.scored += rows
        self.errors += errors
        if self._bar:
            self._bar.update(self._task, completed=self.done, errors=self.errors)
        every = EVENT_INTERVAL_SECONDS if self._as_json else PLAIN_INTERVAL_SECONDS
        if time.monotonic() - self._reported >= every:
            self._reported = time.monotonic()
            if self._as_json:
                self.event("progress")
            elif not self._bar:
                print_status(self._line())

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield tables of scores, and count the rows of each."""
        for table in tables:
            yield table
            codes = table.column("error_code")
            self.add(len(table), len(codes) - codes.null_count)

    def event(self, name: str, **more: Any) -> None:
        """Writes an event, where those were asked for."""
        if not self._as_json:
            return
        figures = {
            "rows": self.done,
            "total": self.total,
            "errors": self.errors,
            "rows_per_second": round(self.rows_per_second, 1),
            "seconds_left": self._seconds_left(),
        }
        document = {"event": name, **figures, **more}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def _seconds_left(self) -> int | None:
        if not self.scored:
            return None
        return round(max(0, self.total - self.done) / self.rows_per_second)

    def _line(self) -> str:
        left = self._seconds_left()
        hours, minutes = divmod((left or 0) // 60, 60)
        remaining = f"{hours} h {minutes} min" if hours else f"{minutes} min {(left or 0) % 60} s"
        return (
            f"scoring: {self.done:,} of {self.total:,} rows, {self.rows_per_second:,.0f} rows/s, "
            f"{self.errors:,} with errors, {remaining} left"
        )

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("scoring"),
            BarColumn(),
            TaskProgressColumn(show_speed=True),
            MofNCompleteColumn(),
            TextColumn("{task.fields[errors]} with errors"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            "scoring", total=self.total, completed=self.done, errors=self.errors
        )
        self._bar.start()
