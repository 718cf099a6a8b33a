"""Parity: PyTorch and ONNX give the same numbers, or nothing is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dimml.bundle import Manifest
from dimml.errors import ParityError
from dimml.modalities import Arrays, Kind
from dimml.nn.model import MultimodalModel
from dimml.runtime.session import Graph
from dimml.samples import subset_name, subsets

TOLERANCE = 1e-4
BATCH_SIZES = (1, 2, 7, 33)


def parity_check(
    model: MultimodalModel, kinds: Mapping[str, Kind], samples: Mapping[str, Sequence[Arrays]]
) -> Callable[[Path, Manifest], None]:
    """Return a check of a bundle's graphs against the model on real samples.

    Args:
        model: The exported model.
        kinds: Modality to kind, in slot order.
        samples: Modality to preprocessed samples, at least one each.
    """

    def check(folder: Path, manifest: Manifest) -> None:
        model.eval()
        features = []
        for slot, (name, kind) in enumerate(kinds.items()):
            graph = Graph(folder / manifest.modalities[name].graph, "cpu")
            features.append(_check_encoder(model.encoders[slot], graph, kind, samples[name]))
        _check_classifier(
            model, Graph(folder / manifest.classifier, "cpu"), np.stack(features, axis=1)
        )

    return check


@torch.no_grad()
def _check_encoder(
    encoder: torch.nn.Module, graph: Graph, kind: Kind, samples: Sequence[Arrays]
) -> np.ndarray:
    """Compare one encoder, and return features [33, D] with which to compare the classifier."""
    features = np.empty(0)
    for size in BATCH_SIZES:
        batch = [samples[row % len(samples)] for row in range(size)]
        parts = []
        for group in _equal_shapes(batch, kind):
            inputs = kind.collate(group)
            expected = encoder(**{k: torch.from_numpy(v) for k, v in inputs.items()}).numpy()
            [actual] = graph.run(inputs)
            _compare(f"{kind.name}, batch {size}", expected, actual)
            parts.append(expected)
        features = np.concatenate(parts)
    return features


@torch.no_grad()
def _check_classifier(model: MultimodalModel, graph: Graph, features: np.ndarray) -> None:
    for subset in subsets(model.modalities):
        mask = np.array([name in subset for name in model.modalities])
        for size in BATCH_SIZES:
            # Slots of absent modalities may hold anything.
            slots = np.where(mask[:, None], features[:size], np.float32(np.nan))
            present = np.tile(mask, (size, 1))
            expected = model.fusion(torch.from_numpy(slots), torch.from_numpy(present))
            actual = graph.run({"features": slots, "present": present})
            for one, other in zip(expected, actual, strict=True):
                _compare(f"classifier, {subset_name(subset)}, batch {size}", one.numpy(), other)


def _equal_shapes(samples: Sequence[Arrays], kind: Kind) -> list[list[Arrays]]:
    groups: dict[object, list[Arrays]] = {}
    for item in samples:
        groups.setdefault(kind.bucket(item), []).append(item)
    return list(groups.values())


def _compare(place: str, expected: np.ndarray, actual: np.ndarray) -> None:
    difference = float(np.abs(expected - actual).max())
    # Not `>`, which lets NaN pass.
    if not difference <= TOLERANCE:
        raise ParityError(
            f"{place}: PyTorch and ONNX differ by {difference:.2g}, over {TOLERANCE:g}; nothing "
            "was written"
        )
