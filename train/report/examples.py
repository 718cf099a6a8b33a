"""The worst errors of a model as a page shows them: the most confident ones, with their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimml.modalities import Kind
from dimml.table import Row
from train.report.media import show_input

SHOWN_EXAMPLES = 12
MAX_MEDIA_CHARACTERS = 3_000_000
"""Length of all data URLs of a page. Further inputs are left out, and the page says so."""


@dataclass(frozen=True)
class RowAnswers:
    """The answers to N rows from everything that each row has; labels are numbers.

    Attributes:
        labels: int64 [N], the true labels.
        predicted: int64 [N].
        confidence: float [N].
        weights: float [N, M], or None if the model does not weight.
        alone_labels: int64 [N, M], what each modality says alone, undefined where it is absent.
        alone_confidence: float [N, M].
        present: bool [N, M].
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    weights: np.ndarray | None
    alone_labels: np.ndarray
    alone_confidence: np.ndarray
    present: np.ndarray

    def worst(self) -> list[int]:
        """Return the numbers of the most confident errors, the most confident first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        order = np.argsort(-self.confidence[wrong], kind="stable")
        return [int(row) for row in wrong[order][:SHOWN_EXAMPLES]]


def show_errors(
    rows: Sequence[Row], answers: RowAnswers, kinds: Mapping[str, Kind], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the most confident errors with their inputs, as JSON types.

    Args:
        rows: The rows of the answers.
        answers: The answers.
        kinds: Modality to kind, in slot order.
        labels: Label names in order.

    Returns:
        For each error `id`, `label`, `predicted`, `confidence` and `inputs`: modality to what
        `show_input` returns, and for a present modality also the `label`, the `confidence` and the
        `weight` of its own answer.
    """
    shown = []
    characters = 0
    for number in answers.worst():
        inputs = {}
        for slot, (name, kind) in enumerate(kinds.items()):
            one = show_input(rows[number].sample.get(name), kind)
            size = sum(map(len, [*one.get("images", ()), one.get("audio", "")]))
            if size and characters + size > MAX_MEDIA_CHARACTERS:
                one = {"note": "left out, because the page would become too large"}
            else:
                characters += size
            if answers.present[number, slot]:
                weight = None if answers.weights is None else float(answers.weights[number, slot])
                one |= {
                    "label": labels[answers.alone_labels[number, slot]],
                    "confidence": float(answers.alone_confidence[number, slot]),
                    "weight": weight,
                }
            inputs[name] = one
        shown.append(
            {
                "id": rows[number].id,
                "label": labels[answers.labels[number]],
                "predicted": labels[answers.predicted[number]],
                "confidence": float(answers.confidence[number]),
                "inputs": inputs,
            }
        )
    return shown
