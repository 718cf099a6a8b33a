"""Which labels are taken for which: the confusion matrix and the most confused pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SHOWN_LABELS = 20
SHOWN_PAIRS = 10


def count_confusions(
    truth: np.ndarray, predicted: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """Count how often each label is predicted for each true label.

    Of more than `SHOWN_LABELS` labels, the matrix has those that take part in the most errors.

    Args:
        truth: int64 [N], true labels by their numbers.
        predicted: int64 [N].
        labels: Label names in order.

    Returns:
        `classes` (number of all labels), `labels` (those of the matrix), `counts` (a row per true
        label, a column per predicted label), `errors` (number of all errors), and `pairs`, the most
        frequent errors as `{"label", "predicted", "count"}`.
    """
    # There may be thousands of labels, so only the cells that are not 0 are counted.
    cells, counts = np.unique(np.stack([truth, predicted]), axis=1, return_counts=True)
    wrong = cells[0] != cells[1]
    involved = np.bincount(
        np.concatenate([cells[0][wrong], cells[1][wrong]]),
        np.tile(counts[wrong], 2),
        minlength=len(labels),
    )
    shown = np.sort(np.argsort(-involved, kind="stable")[:SHOWN_LABELS])
    place = {int(label): number for number, label in enumerate(shown)}
    matrix = np.zeros((len(shown), len(shown)), int)
    for true, guess, count in zip(*cells.tolist(), counts.tolist(), strict=True):
        if true in place and guess in place:
            matrix[place[true], place[guess]] = count
    order = [n for n in np.argsort(-counts, kind="stable") if wrong[n]]
    return {
        "classes": len(labels),
        "labels": [labels[label] for label in shown],
        "counts": matrix.tolist(),
        "errors": int(counts[wrong].sum()),
        "pairs": [
            {
                "label": labels[cells[0, number]],
                "predicted": labels[cells[1, number]],
                "count": int(counts[number]),
            }
            for number in order[:SHOWN_PAIRS]
        ],
    }
