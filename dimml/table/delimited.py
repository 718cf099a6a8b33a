"""Read the records of CSV, in the dialects that spreadsheets and databases write."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, TextIO

from dimml.errors import ManifestError
from dimml.progress import print_once
from dimml.table.records import Record, broken_record, checked_record, distinct_names

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
NA_CELLS = frozenset(
    ("nan", "NaN", "NAN", "None", "NA", "N/A", "n/a", "null", "NULL", "<NA>", "#N/A", "#NA")
)
"""Cells that programs write in place of nothing."""

_USUAL_LINES = 30
"""Lines of a row, because of line breaks in quotes, above which a quote is probably missing."""

_STATED_SEPARATOR = re.compile(r"sep=(.)\r?\n?")
"""The line with which spreadsheets state the separator."""

_MAX_NA_LENGTH = 6
"""A longer cell is not compared with `NA_CELLS`, which are shorter even with blanks around them."""

# A CSV cell may hold a whole text. The text modality has the limit that users can set.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class DelimitedReader:
    """Reads the header of a table, then its records.

    Args:
        file: The text of the table, opened with `newline=""`.
        path: The table, for messages.

    Attributes:
        header: The names of the columns, without the blanks around them.

    Raises:
        ManifestError: If the header is not CSV, or names a column twice.
    """

    def __init__(self, file: TextIO, path: object) -> None:
        self._path = path
        first_lines = []
        for line in file:
            first_lines.append(line)
            if line.strip():
                break
        head = first_lines[-1] if first_lines else ""
        self._skipped_lines = 0
        if stated := _STATED_SEPARATOR.fullmatch(head):
            first_lines, head = [], next(file, "")
            first_lines.append(head)
            self._skipped_lines = 1
        separator = stated[1] if stated else detect_separator(head)
        # Blanks after separators are decoration if the header has them too.
        self._strips_cells = re.search(rf"{re.escape(separator)} +\S", head) is not None
        lines = chain(first_lines, file)
        self._reader = csv.reader(
            lines, delimiter=separator, skipinitialspace=self._strips_cells, strict=True
        )
        try:
            names = next((cells for cells in self._reader if cells), [])
        except csv.Error as error:
            raise ManifestError(f"{path}: its first line is not CSV: {error}") from error
        if separator != ",":
            shown = SEPARATORS.get(separator, repr(separator))
            print_once(f"{path}: its cells are separated by {shown}")
        self.header = distinct_names([name.strip() for name in names], path)
        # Cells of columns without a name may be left out at the end of a line.
        self._min_cells = max((n for n, name in enumerate(self.header, 1) if name), default=0)

    def records(self, used: Collection[str] | None, keep_na: bool) -> Iterator[Record]:
        """Yield the records after the header.

        Args:
            used: The columns in which the cells of `NA_CELLS` are empty; None for all.
            keep_na: Whether these cells are text instead.

        Raises:
            ManifestError: If a quote is never closed.
        """
        columns = [] if keep_na else [c for c in self.header if used is None or c in used]
        emptied: Counter[str] = Counter()
        while True:
            line = self._reader.line_num + self._skipped_lines + 1
            try:
                values = next(self._reader, None)
            except csv.Error as error:
                if "end of data" in str(error):
                    # The rows after the quote are all in one cell, so none of them can be read.
                    raise ManifestError(
                        f"{self._path}, line {line}: a quote is opened and never closed"
                    ) from error
                yield broken_record(f"{self._lines(line)} not CSV: {error}")
                continue
            if values is None:
                break
            lines = self._reader.line_num + self._skipped_lines - line + 1
            if lines > _USUAL_LINES:
                print_once(
                    f"{self._path}: the row of line {line} spans {lines} lines; is a quote missing?"
                )
            if values:
                yield self._record(values, line, columns, emptied)
        if emptied:
            print_once(
                f"{self._path}: cells that hold {', '.join(sorted(emptied))} count as empty: "
                f"{emptied.total():,}; --keep-na, or keep_na in a recipe's data, keeps them as text"
            )

    def _lines(self, first: int) -> str:
        last = self._reader.line_num + self._skipped_lines
        return f"line {first} is" if last <= first else f"lines {first} to {last} are"

    def _record(
        self, values: Sequence[str], line: int, columns: Sequence[str], emptied: Counter[str]
    ) -> Record:
        if self._strips_cells:
            values = [value.strip() for value in values]
        record: dict[str, Any] = dict(zip(self.header, values, strict=False))
        surplus = values[len(self.header) :]
        if len(values) < self._min_cells or any(cell.strip() for cell in surplus):
            counts = f"{len(values)} cells; the header has {len(self.header)}"
            return broken_record(f"line {line} has {counts}", record.get("id"))
        for name in columns:
            value = record.get(name)
            if value and len(value) <= _MAX_NA_LENGTH and (text := value.strip()) in NA_CELLS:
                emptied[text] += 1
                record[name] = None
        return checked_record(record, line)


def detect_separator(header: str) -> str:
    """Return the separator that divides a header into the most columns, a comma in doubt."""
    counts = {}
    for separator in SEPARATORS:
        try:
            counts[separator] = len(next(csv.reader([header], delimiter=separator), []))
        except csv.Error:
            counts[separator] = 0
    return max(counts, key=counts.__getitem__)
