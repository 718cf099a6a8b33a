"""The answers of a bundle to a split, for each subset of the modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

import numpy as np

from dimml.errors import AbsentError, InputError, ManifestError, list_first
from dimml.outputs import EncodedBatch, FusedBatch, PreparedSample
from dimml.predictor import BATCH_SIZE, Predictor
from dimml.progress import track
from dimml.samples import is_absent, subset_name, subsets
from dimml.table import Row
from train.data.splits import name_unknown

_SHOWN_LABELS = 20


@dataclass(frozen=True)
class SubsetAnswers:
    """The answers to the rows that have a subset of the modalities, from that subset alone.

    Attributes:
        slots: bool [M], the modalities of the subset.
        having: bool [N], the rows that have the subset.
        probabilities: float32 [n, classes], of these rows in order.
    """

    slots: np.ndarray
    having: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class SplitAnswers:
    """The answers of a bundle to the N readable rows of a split.

    Attributes:
        rows: int64 [N], the positions of the readable rows among all rows.
        labels: int64 [N], the numbers of the true labels.
        subsets: Subset name to its answers, smallest first, without subsets that no row has.
        whole: The answers from everything that a row has; `ranked` has the best label alone.
        problems: One line per cell that cannot be read.
    """

    rows: np.ndarray
    labels: np.ndarray
    subsets: Mapping[str, SubsetAnswers]
    whole: FusedBatch
    problems: Sequence[str]


def answer_subsets(predictor: Predictor, rows: Sequence[Row], description: str) -> SplitAnswers:
    """Answer each subset of modalities; each encoder runs once.

    Args:
        predictor: The predictor.
        rows: Labelled rows; a cell that cannot be read counts as absent.
        description: The text of the progress.

    Raises:
        ManifestError: If the bundle does not know the label of a row.
    """
    labels = np.array(_label_numbers(predictor.labels, rows), np.int64)
    slots = {
        subset_name(subset): np.array([name in subset for name in predictor.kinds])
        for subset in subsets(list(predictor.kinds))
    }
    probabilities: dict[str, list[np.ndarray]] = {name: [] for name in slots}
    parts = [_best_alone(_no_answers(predictor))]
    readable: list[int] = []
    problems: list[str] = []
    tracked = track(enumerate(rows), description, len(rows))
    while block := list(islice(tracked, BATCH_SIZE)):
        batch = []
        for number, row in block:
            item = predictor.prepare(row.sample, "absent")
            problems += _unreadable_cells(row, item)
            if isinstance(item, PreparedSample):
                batch.append(item)
                readable.append(number)
        if not batch:
            continue
        encoded = predictor.encode(batch)
        parts.append(_best_alone(predictor.fuse(encoded)))
        for name, mask in slots.items():
            having = np.all(encoded.present[:, mask], axis=1)
            if having.any():
                restricted = _restrict(encoded, having, mask)
                probabilities[name].append(predictor.fuse(restricted).probabilities)
    whole = _join(parts)
    measured = {
        name: SubsetAnswers(
            slots[name], np.all(whole.present[:, slots[name]], axis=1), np.concatenate(blocks)
        )
        for name, blocks in probabilities.items()
        if blocks
    }
    return SplitAnswers(np.array(readable, int), labels[readable], measured, whole, problems)


def _label_numbers(labels: Sequence[str], rows: Sequence[Row]) -> list[int]:
    index = {label: number for number, label in enumerate(labels)}
    if unknown := name_unknown(rows, index):
        raise ManifestError(
            f"the rows have labels that the bundle does not know: {unknown}; it knows "
            f"{list_first(labels, _SHOWN_LABELS)}"
        )
    return [index[str(row.label)] for row in rows]


def _unreadable_cells(row: Row, item: PreparedSample | InputError) -> list[str]:
    names = [name for name, value in row.sample.items() if not is_absent(value)]
    if isinstance(item, AbsentError):
        return []
    if isinstance(item, InputError):
        return [f"{row.id}: {item}" for _ in names]
    return [
        f"{row.id}: {name}: {item.warnings[name][0]}" for name in names if name in item.unreadable
    ]


def _restrict(encoded: EncodedBatch, rows: np.ndarray, slots: np.ndarray) -> EncodedBatch:
    """Return some rows, bool [N], with only the modalities in some slots, bool [M]."""
    features = np.where(slots[:, None], encoded.features[rows], np.float32(0))
    return EncodedBatch(features, np.tile(slots, (len(features), 1)))


def _no_answers(predictor: Predictor) -> FusedBatch:
    """Return the answers to no rows, to which others are joined."""
    slots, classes = len(predictor.kinds), len(predictor.labels)
    shapes = ((0, classes), (0, slots), (0, slots, classes))
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    return FusedBatch.of(predictor.bundle, np.zeros((0, slots), bool), outputs)


def _best_alone(fused: FusedBatch) -> FusedBatch:
    """Return the answers with the most probable label alone, which is what is measured.

    The ranks of thousands of labels would take twice the memory of their probabilities.
    """
    return replace(fused, ranked=fused.ranked[:, :1].copy())


def _join(parts: Sequence[FusedBatch]) -> FusedBatch:
    return FusedBatch(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(FusedBatch)
        }
    )
