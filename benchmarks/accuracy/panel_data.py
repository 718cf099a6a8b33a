"""Make the tables of the panel's data sets from the digits and from avMNIST.

Each function takes the rows of one split, in order, and returns the rows of that split of the data
set. So no file of one split is in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy.tables import Rows

MATCH, MISMATCH = "match", "mismatch"
DIGITS = tuple(map(str, range(10)))


def first_rows(rows: Rows, number: int) -> Rows:
    """Return the first rows, which are those of a smaller digits data set with the same seed."""
    return rows[:number]


def half_of_recordings(rows: Rows) -> Rows:
    """Return the rows of avMNIST whose recording has an even number.

    Every speaker says each digit as often as before, and all seeds have the same recordings.
    """
    return [row for row in rows if int(row["id"].rpartition("_")[2]) % 2 == 0]


def shuffled_column(rows: Rows, column: str, generator: np.random.Generator) -> Rows:
    """Give each row the cell of a random row, so that the column tells nothing about the label.

    A row keeps its own cell with the probability of one in the number of rows, and a row without a
    cell stays without. So the column has the same cells as before, as often.
    """
    present = [number for number, row in enumerate(rows) if row[column] is not None]
    shuffled = {
        number: rows[other][column]
        for number, other in zip(present, generator.permutation(present).tolist(), strict=True)
    }
    return [{**row, column: shuffled.get(number)} for number, row in enumerate(rows)]


def pairs(
    rows: Rows,
    columns: tuple[str, str],
    per_digit: int,
    repeats: int = 1,
    digits: Sequence[str] = DIGITS,
) -> Rows:
    """Pair cells of two columns; the label says whether both are of the same digit.

    No cell tells the label: each cell is in as many pairs that match as in pairs that do not, so
    each digit is too, in either column. If `per_digit` is a multiple of the number of other digits,
    the pairs that do not match have each two digits equally often.

    Args:
        rows: Rows of a split, whose label is a digit.
        columns: The names of the two columns.
        per_digit: The number of cells of each digit that the first column contributes.
        repeats: The number of pairs that match, and of pairs that do not, for each of these cells.
        digits: The labels of the rows that take part, two or more.

    Returns:
        `2 * len(digits) * per_digit * repeats` rows, half of them with the label "match".

    Raises:
        ValueError: If a digit has too few cells.
    """
    first, second = (_cells_by_digit(rows, column, digits) for column in columns)
    if min(map(len, first.values())) < per_digit or not all(second.values()):
        raise ValueError(f"a digit has fewer than {per_digit} cells in the column {columns[0]}")
    split, paired = rows[0]["split"], list[dict[str, Any]]()
    for number in range(per_digit * repeats):
        # The position and the shift are the same for all digits. So the partners of a position are
        # one cell of each digit, once in pairs that match and once in pairs that do not. Each
        # round moves on by one, so that a cell meets other partners.
        position = number + number // per_digit
        shift = 1 + position % (len(digits) - 1)
        for place, digit in enumerate(digits):
            other_digit = digits[(place + shift) % len(digits)]
            for label, partner in ((MATCH, digit), (MISMATCH, other_digit)):
                others = second[partner]
                cells = (first[digit][number % per_digit], others[position % len(others)])
                row = {"id": f"{split}-{len(paired):06d}", "split": split, "label": label}
                paired.append({**row, **dict(zip(columns, cells, strict=True))})
    return paired


def _cells_by_digit(rows: Rows, column: str, digits: Sequence[str]) -> Mapping[str, list[str]]:
    return {
        digit: [row[column] for row in rows if row["label"] == digit and row[column] is not None]
        for digit in digits
    }
