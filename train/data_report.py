"""The report on the data of a recipe: counts, and what to look at before training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimml.errors import ManifestError, list_first, shorten
from dimml.table import Row
from dimml.table.cells import SPLITS
from train.markdown import table

MIN_CLASS_ROWS = 10
"""A class with fewer rows in the train split is reported."""
MAX_IMBALANCE = 10
"""The largest class may have this many times the rows of the smallest, without a warning."""
STATES = ("present", "missing", "unreadable")

_SHOWN = 10
_NO_SPLIT = "(none)"


@dataclass(frozen=True)
class Duplicates:
    """The cells of a split whose content is also in the train split.

    Attributes:
        modality: Name of the modality.
        split: Name of the split.
        count: How many cells.
        id: The row of the first.
    """

    modality: str
    split: str
    count: int
    id: str


class CellGroups:
    """Cells grouped by modality, split and reason, with the first of each group."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._first: dict[tuple[str, str, str], tuple[str, str]] = {}

    def add(self, key: tuple[str, str, str], identifier: str, message: str) -> None:
        """Count a cell of the row with this id."""
        self._counts[key] += 1
        self._first.setdefault(key, (identifier, message))

    def document(self) -> list[dict[str, Any]]:
        """Return the groups as JSON types, the largest first."""
        return [
            {
                "modality": key[0],
                "split": key[1],
                "reason": key[2],
                "count": count,
                "example": dict(zip(("id", "message"), self._first[key], strict=True)),
            }
            for key, count in self._counts.most_common()
        ]

    def lines(self, what: str) -> Iterator[str]:
        """Yield a line for each of the largest groups, and how many more there are."""
        groups = self.document()
        for group in groups[:_SHOWN]:
            cells = _counted(group["count"], "cell")
            example = group["example"]
            yield (
                f"{group['modality']}, {group['split']}: {cells} {what}, such as row "
                f"{shorten(example['id'])}: {example['message']}"
            )
        if len(groups) > _SHOWN:
            yield f"{len(groups) - _SHOWN:,} more groups of cells {what}; --json has them all"


class DataReport:
    """Counts of rows, labels and cells.

    Attributes:
        kinds: Modality to kind.
        rows: Split to its rows.
        labels: Split to the labels of the rows that have a modality.
        unlabelled: Split to the rows without a label that take part nevertheless.
        unused: Split to the rows that take no part.
        cells: Modality, split and one of `STATES`, to the number of cells.
        unreadable: The cells that cannot be read.
        notes: The cells with a note of their kind, such as silence.
        duplicates: Content of the train split in other splits.
        failure: The error that training would end with.
    """

    def __init__(self, kinds: Mapping[str, str]) -> None:
        self.kinds = kinds
        self.rows: Counter[str] = Counter()
        self.labels: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
        self.unlabelled: Counter[str] = Counter()
        self.unused: Counter[str] = Counter()
        self.cells: Counter[tuple[str, str, str]] = Counter()
        self.unreadable = CellGroups()
        self.notes = CellGroups()
        self.duplicates: list[Duplicates] = []
        self.failure: ManifestError | None = None

    def add_row(self, row: Row, takes_part: bool) -> None:
        """Count a row and its label."""
        split = row.split or _NO_SPLIT
        self.rows[split] += 1
        if not takes_part:
            self.unused[split] += 1
        elif row.label is None:
            self.unlabelled[split] += 1
        elif split in SPLITS:
            self.labels[split][row.label] += 1

    def warnings(self) -> list[str]:
        """Return what the user should look at, one line each."""
        return [
            *self.unreadable.lines("unreadable"),
            *self.notes.lines("with a warning"),
            *self._duplicate_lines(files=True),
            *self._label_lines(),
        ]

    def information(self) -> list[str]:
        """Return what is worth to know and usually right, one line each."""
        lines = list(self._duplicate_lines(files=False))
        for split, count in self.unused.items():
            if split in SPLITS:
                lines.append(
                    f"{split}: {_counted(count, 'row')} without a label or any cell, not used"
                )
        if count := self.unlabelled["train"]:
            rows = _counted(count, "row")
            lines.append(f"train: {rows} without a label, used for what modalities share")
        others = [f"{shorten(s)} ({n:,})" for s, n in self.rows.items() if s not in SPLITS]
        if others:
            lines.append(f"rows of other splits are not used: {', '.join(others[:_SHOWN])}")
        return lines

    def document(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        cells: dict[str, dict[str, dict[str, int]]] = {name: {} for name in self.kinds}
        for name, split in ((name, split) for name in self.kinds for split in self._splits()):
            cells[name][split] = {state: self.cells[name, split, state] for state in STATES}
        return {
            "rows": dict(self.rows),
            "labels": {split: dict(counts) for split, counts in self.labels.items()},
            "unlabelled": dict(self.unlabelled),
            "unused": dict(self.unused),
            "cells": cells,
            "unreadable": self.unreadable.document(),
            "notes": self.notes.document(),
            "duplicates": [vars(duplicates) for duplicates in self.duplicates],
            "warnings": self.warnings(),
            "information": self.information(),
            "error": self.failure.message if self.failure else None,
        }

    def text(self) -> str:
        """Return the report as tables and lists."""
        splits = self._splits()
        counts = sum((self.labels[split] for split in splits), Counter[str]())
        classes = [
            (c, *(f"{self.labels[s][c]:,}" for s in splits)) for c, _ in counts.most_common()
        ]
        if len(classes) > 2 * _SHOWN:
            more = f"and {len(classes) - 2 * _SHOWN:,} more"
            classes = [*classes[: 2 * _SHOWN], (more, *("" for _ in splits))]
        rows = [("rows", *(f"{self.rows[split]:,}" for split in splits))]
        cells = [
            (name, split, *(f"{self.cells[name, split, state]:,}" for state in STATES))
            for name in self.kinds
            for split in splits
        ]
        blocks = [
            table(("class", *splits), rows + classes),
            table(("modality", "split", *STATES), cells),
        ]
        warnings, information = self.warnings(), self.information()
        if warnings:
            blocks.append(_listed("warnings:", warnings))
        if information:
            blocks.append(_listed("good to know:", information))
        if not warnings and not self.failure:
            blocks.append("no problems")
        return "\n\n".join(blocks)

    def _splits(self) -> list[str]:
        return [split for split in SPLITS if self.rows[split]]

    def _duplicate_lines(self, files: bool) -> Iterator[str]:
        for item in self.duplicates:
            if (self.kinds[item.modality] != "text") == files:
                cells = _counted(item.count, "cell")
                yield (
                    f"{item.modality}, {item.split}: the content of {cells} is also in the train "
                    f"split, such as row {shorten(item.id)}"
                    + ("; the split measures too high" if files else ", normal for short texts")
                )

    def _label_lines(self) -> Iterator[str]:
        train = self.labels["train"]
        for split in ("validation", "test"):
            if unknown := self.labels[split].keys() - train.keys():
                yield f"{split}: labels that the train split lacks: {_names(sorted(unknown))}"
        small = [f"{c} ({n})" for c, n in sorted(train.items()) if n < MIN_CLASS_ROWS]
        if small:
            yield f"classes of fewer than {MIN_CLASS_ROWS} train rows: {_names(small)}"
        if self.rows["validation"] and (lost := train.keys() - self.labels["validation"].keys()):
            yield f"classes without a row in the validation split: {_names(sorted(lost))}"
        if train and (most := max(train.values())) > MAX_IMBALANCE * min(train.values()):
            ratio = most / min(train.values())
            yield (
                f"the largest class has {ratio:.0f} times the train rows of the smallest; "
                "`training.class_weights: balanced` gives all classes the same weight"
            )
        alike = defaultdict(set)
        for label in set().union(*self.labels.values()):
            alike["".join(label.casefold().split())].add(label)
        for labels in alike.values():
            if len(labels) > 1:
                yield f"labels that differ only by case or blanks: {_names(sorted(labels))}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    return list_first(names, _SHOWN)


def _listed(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"- {line}" for line in lines)])
