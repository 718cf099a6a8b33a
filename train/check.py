"""Read all data of a recipe as training does, and report on them before training starts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dimml.errors import AbsentError, InputError, ManifestError, shorten
from dimml.modalities import Kind
from dimml.modality_specs import build_kinds
from dimml.progress import track
from dimml.samples import is_absent
from dimml.table import Row, read_rows
from dimml.table.cells import SPLITS
from train.data.cache import BLOCK_ROWS
from train.data.digests import content_digest
from train.data.prepare import check_readable, read_models, specifications
from train.data.splits import no_readable_row, read_training_splits, takes_part
from train.data_report import DataReport, Duplicates
from train.methods.base import UNLABELLED
from train.recipe import Recipe
from train.threads import in_threads

_NUMBER = re.compile(r"\d[\w.,]*")


def check_data(recipe: Recipe) -> DataReport:
    """Decode and preprocess every cell of a recipe's splits, of which nothing is kept.

    The `failure` of the report is the error that `dimml train` would end with.

    Raises:
        UsageError: If a table or a pretrained model cannot be read, or no column is a modality.
    """
    models = read_models(recipe)
    source = recipe.source
    report = DataReport(source.kinds)
    try:
        read_training_splits(source)
    except ManifestError as error:
        report.failure = error
    try:
        texts = []
        for row in read_rows(source):
            report.add_row(row, takes_part(row, pairs=row.split == "train"))
            if row.split == "train" and takes_part(row, pairs=True):
                texts.append(_only_texts(row, source.kinds))
    except ManifestError as error:
        raise (report.failure or error) from error
    specs, assets = specifications(recipe, texts, models)
    kinds = build_kinds(specs, assets, source.layout)
    reading = _Reading(report)
    rows = (row for row in read_rows(source) if row.split in SPLITS)
    total = sum(report.rows[split] for split in SPLITS)
    read = in_threads(partial(_read_row, kinds=kinds), rows, BLOCK_ROWS)
    for result in track(read, "checking", total):
        reading.add(result)
    report.duplicates = list(reading.duplicates())
    report.failure = report.failure or reading.failure()
    return report


@dataclass(frozen=True)
class _ReadRow:
    """What reading a row gave.

    Attributes:
        id: The id of the row.
        split: The split of the row.
        label: The label of the row.
        trains: Whether training reads the row.
        digests: Modality to the digest of its content, where it can be read.
        problems: Modality to the error of a cell that cannot be read, and its reason.
        notes: Modality and note, such as that a recording is silent.
        missing: Modalities whose cell is empty.
    """

    id: str
    split: str
    label: str | None
    trains: bool
    digests: dict[str, bytes] = field(default_factory=dict)
    problems: dict[str, tuple[InputError, str]] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def _read_row(row: Row, kinds: Mapping[str, Kind]) -> _ReadRow:
    split = str(row.split)
    result = _ReadRow(row.id, split, row.label, takes_part(row, pairs=split == "train"))
    for name, kind in kinds.items():
        value = row.sample[name]
        if is_absent(value):
            result.missing.append(name)
            continue
        try:
            digest = content_digest(kind, value)
            raw = kind.decode(value)
            kind.preprocess(raw)
        except AbsentError:
            result.missing.append(name)
            continue
        except InputError as error:
            result.problems[name] = (error, _reason(error.message, value))
            continue
        result.digests[name] = digest[:16]
        result.notes.extend((name, note) for note in kind.warnings(raw))
    return result


def _reason(message: str, value: Any) -> str:
    """Return a message without the path and the numbers of its cell, to group messages by."""
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, Path):
            for path in (str(part), shorten(str(part), 200), shorten(str(part))):
                message = message.replace(path, "…")
    return _NUMBER.sub("#", message)


def _only_texts(row: Row, kinds: Mapping[str, str]) -> Row:
    """Return a row with nothing but its texts, which are few bytes."""
    texts = {name: v if kinds[name] == "text" else None for name, v in row.sample.items()}
    return Row(row.id, row.split, row.label, texts)


class _Reading:
    """Collects what reading the rows gave, in a few bytes per row.

    Args:
        report: Counts the cells.
    """

    def __init__(self, report: DataReport) -> None:
        self._report = report
        self._digests: dict[tuple[str, str], list[tuple[bytes, str]]] = defaultdict(list)
        self._labels: list[str | None] = []
        self._present: list[list[bool]] = []
        self._problems: dict[str, list[str]] = {"train": [], "validation": []}
        self._readable: Counter[str] = Counter()

    def add(self, row: _ReadRow) -> None:
        """Count the cells of a row."""
        report, split = self._report, row.split
        for name in report.kinds:
            state = "present" if name in row.digests else "unreadable"
            report.cells[name, split, "missing" if name in row.missing else state] += 1
        for name, digest in row.digests.items():
            self._digests[name, split].append((digest, row.id))
        for name, (error, reason) in row.problems.items():
            report.unreadable.add((name, split, reason), row.id, error.message)
        for name, note in row.notes:
            report.notes.add((name, split, _NUMBER.sub("#", note)), row.id, note)
        if not row.trains or split not in self._problems:
            return
        lines = self._problems[split]
        if row.problems and not lines:
            lines.append(f"{shorten(row.id)}: {next(iter(row.problems.values()))[0]}")
        if row.digests:
            self._readable[split] += 1
            if split == "train":
                self._labels.append(row.label)
                self._present.append([name in row.digests for name in report.kinds])

    def duplicates(self) -> Iterator[Duplicates]:
        """Yield the cells of the validation and test splits whose content is also in train."""
        for name in self._report.kinds:
            train = {digest for digest, _ in self._digests[name, "train"]}
            for split in ("validation", "test"):
                ids = [i for digest, i in self._digests[name, split] if digest in train]
                if ids:
                    yield Duplicates(name, split, len(ids), ids[0])

    def failure(self) -> ManifestError | None:
        """Return the error of training about cells that cannot be read, if any."""
        try:
            for split, lines in self._problems.items():
                if not self._readable[split]:
                    raise no_readable_row(split, lines[0])
            labels = sorted(self._report.labels["train"])
            index: dict[str | None, int] = {label: n for n, label in enumerate(labels)}
            index[None] = UNLABELLED
            numbers = np.array([index[label] for label in self._labels])
            modalities = list(self._report.kinds)
            check_readable(
                numbers, np.array(self._present), self._problems["train"], labels, modalities
            )
        except ManifestError as error:
            return error
        return None
