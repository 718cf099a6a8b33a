"""Make the tables of the panel's data sets from the digits and from avMNIST.

Each function takes the rows of one split, in order, and returns the rows of that split of the data
set. So no file of one split is in another.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
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


def pairs(rows: Rows, columns: tuple[str, str], per_digit: int, repeats: int = 1) -> Rows:
    """Pair cells of two columns; the label says whether both are of the same digit.

    Neither cell of a pair tells the label: each cell of the first column is in as many pairs that
    match as in pairs that do not, and so is each cell of the second. The pairs that do not match
    combine each digit with each other digit equally often, as far as `per_digit * repeats` is a
    multiple of 9.

    Args:
        rows: Rows of a split, whose label is a digit.
        columns: The names of the two columns.
        per_digit: The number of cells of each digit in the first column. Each takes part in
            `repeats` pairs that match and in as many that do not.
        repeats: At most the number of cells of a digit in the second column.

    Returns:
        `20 * per_digit * repeats` rows, half of them with the label "match".

    Raises:
        ValueError: If a digit has too few cells.
    """
    first, second = (_cells_by_digit(rows, column) for column in columns)
    if min(map(len, first.values())) < per_digit or min(map(len, second.values())) < repeats:
        raise ValueError(f"a digit has fewer than {per_digit} cells in {columns[0]}")
    paired: list[dict[str, Any]] = []
    name = count()
    split = rows[0]["split"]
    # The k-th cells of all digits have partners with the same position and the same shift, which
    # makes the classes equal in both columns, cell by cell.
    for number in range(per_digit * repeats):
        cell, shift = number % per_digit, 1 + number % 9
        for digit in range(10):
            for label, partner in ((MATCH, digit), (MISMATCH, (digit + shift) % 10)):
                partners = second[DIGITS[partner]]
                cells = (first[DIGITS[digit]][cell], partners[number % len(partners)])
                paired.append(
                    {
                        "id": f"{split}-{next(name):06d}",
                        "split": split,
                        "label": label,
                        **dict(zip(columns, cells, strict=True)),
                    }
                )
    return paired


def _cells_by_digit(rows: Rows, column: str) -> Mapping[str, list[str]]:
    return {
        digit: [
            row[column] for row in rows if row["label"] == digit and row[column] is not None
        ]
        for digit in DIGITS
    }
