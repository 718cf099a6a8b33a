"""Show the progress of a job as a bar on a terminal, plain lines elsewhere, or JSON events."""

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
        total: Rows of the job.
        done: Rows that earlier runs scored.
        errors: Rows with errors among those.
        as_json: Whether to write events to standard output instead of progress to standard error.
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
        """The seconds since the start of this run."""
        return time.monotonic() - self._started

    @property
    def rows_per_second(self) -> float:
        """The speed of this run, without the rows of earlier runs."""
        return self.scored / max(self.seconds, 1e-9)

    def counted(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield tables of scores, and count the rows of each."""
        for table in tables:
            yield table
            codes = table.column("error_code")
            self.done += len(table)
            self.scored += len(table)
            self.errors += len(codes) - codes.null_count
            self._show()

    def _show(self) -> None:
        if self._bar:
            self._bar.update(self._task, completed=self.done, errors=self.errors)
        interval = EVENT_INTERVAL_SECONDS if self._as_json else PLAIN_INTERVAL_SECONDS
        if time.monotonic() - self._reported >= interval:
            self._reported = time.monotonic()
            self.event("progress")
            if not (self._as_json or self._bar):
                print_status(self._line())

    def event(self, name: str, **details: Any) -> None:
        """Write an event as a JSON line if the user asked for events."""
        if not self._as_json:
            return
        figures = {
            "rows": self.done,
            "total": self.total,
            "errors": self.errors,
            "rows_per_second": round(self.rows_per_second, 1),
            "seconds_left": self._seconds_left(),
        }
        event = {"event": name, **figures, **details}
        sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def _seconds_left(self) -> int | None:
        if not self.scored:
            return None
        return round(max(0, self.total - self.done) / self.rows_per_second)

    def _line(self) -> str:
        minutes, seconds = divmod(self._seconds_left() or 0, 60)
        hours, minutes = divmod(minutes, 60)
        remaining = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return (
            f"scoring: {self.done:,} of {self.total:,} rows, {self.rows_per_second:,.0f} rows/s, "
            f"{self.errors:,} with errors, {remaining} left"
        )

    def _open_bar(self) -> None:
        # Only a terminal needs Rich, which takes a while to import.
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("scoring"),
            progress.BarColumn(),
            progress.TaskProgressColumn(show_speed=True),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[errors]} with errors"),
            progress.TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            "scoring", total=self.total, completed=self.done, errors=self.errors
        )
        self._bar.start()
