"""From what a classifier gave to the JSON answer, for every rival and for the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dimml.bundle import Bundle


@dataclass(frozen=True)
class Answers:
    """Builds the same document as dimml's service does.

    Attributes:
        labels: in the order of the classifier's outputs.
        modalities: names, in slot order.
        thresholds: subset name to conformal threshold.
        bundle: identity of the model.
    """

    labels: tuple[str, ...]
    modalities: tuple[str, ...]
    thresholds: Mapping[str, float]
    bundle: str

    @classmethod
    def of(cls, bundle: Bundle) -> Answers:
        """For the model that a bundle holds."""
        manifest = bundle.manifest
        thresholds = manifest.conformal.thresholds if manifest.conformal else {}
        return cls(manifest.labels, tuple(manifest.modalities), thresholds, bundle.id)

    def build(
        self,
        present: np.ndarray,
        probabilities: np.ndarray,
        weights: np.ndarray,
        modality_logits: np.ndarray,
        warnings: Sequence[Mapping[str, tuple[str, ...]]],
    ) -> list[dict[str, Any]]:
        """One answer per row.

        Args:
            present: bool [N, M].
            probabilities: [N, K].
            weights: [N, M].
            modality_logits: [N, M, K].
            warnings: of each row, modality to sentences.
        """
        exponentials = np.exp(modality_logits - modality_logits.max(axis=-1, keepdims=True))
        single = exponentials / exponentials.sum(axis=-1, keepdims=True)
        rows = zip(present, probabilities, weights, single, warnings, strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(
        self,
        present: np.ndarray,
        probabilities: np.ndarray,
        weights: np.ndarray,
        single: np.ndarray,
        warnings: Mapping[str, tuple[str, ...]],
    ) -> dict[str, Any]:
        best = int(probabilities.argmax())
        modalities: dict[str, dict[str, Any]] = {}
        for slot, name in enumerate(self.modalities):
            there = bool(present[slot])
            top = int(single[slot].argmax())
            modalities[name] = {
                "present": there,
                "label": self.labels[top] if there else None,
                "confidence": float(single[slot, top]) if there else None,
                "weight": float(weights[slot]) if there else 0.0,
                "warnings": list(warnings.get(name, ())),
            }
        return {
            "label": self.labels[best],
            "confidence": float(probabilities[best]),
            "probabilities": dict(zip(self.labels, probabilities.tolist(), strict=True)),
            "prediction_set": self._prediction_set(present, probabilities),
            "modalities": modalities,
            "bundle": self.bundle,
        }

    def _prediction_set(self, present: np.ndarray, probabilities: np.ndarray) -> list[str]:
        names = [name for name, there in zip(self.modalities, present, strict=True) if there]
        threshold = self.thresholds.get("+".join(names), 1.0)
        ranked = np.argsort(-probabilities, kind="stable")
        kept = ranked[probabilities[ranked] >= 1.0 - threshold]
        return [self.labels[index] for index in (kept if len(kept) else ranked[:1])]
