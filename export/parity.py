"""Parity: check that PyTorch and ONNX give the same numbers before a bundle is written."""

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
"""The largest absolute difference of a feature, probability, weight or logit."""
BATCH_SIZES = (1, 2, 7, 33)


def parity_check(
    model: MultimodalModel, kinds: Mapping[str, Kind], samples: Mapping[str, Sequence[Arrays]]
) -> Callable[[Path, Manifest], None]:
    """Return a function that compares the graphs of a bundle with the model on samples.

    Args:
        model: The exported model.
        kinds: Modality to kind, in slot order.
        samples: Modality to preprocessed samples, at least one each.

    Returns:
        A `check` for `write_bundle`; it raises ParityError if the outputs of a graph differ by more
        than `TOLERANCE`.
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
    """Compare one encoder at each batch size; return the features [33, D] of the largest batch."""
    features = np.empty(0)
    for size in BATCH_SIZES:
        batch = [samples[row % len(samples)] for row in range(size)]
        parts = []
        for bucket in dict.fromkeys(map(kind.bucket, batch)):
            inputs = kind.collate([item for item in batch if kind.bucket(item) == bucket])
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
            # NaN in absent slots must not reach the outputs.
            slots = np.where(mask[:, None], features[:size], np.float32(np.nan))
            present = np.tile(mask, (size, 1))
            expected = model.fusion(torch.from_numpy(slots), torch.from_numpy(present))
            actual = graph.run({"features": slots, "present": present})
            place = f"classifier, {subset_name(subset)}, batch {size}"
            for expected_output, output in zip(expected, actual, strict=True):
                _compare(place, expected_output.numpy(), output)


def _compare(place: str, expected: np.ndarray, actual: np.ndarray) -> None:
    difference = float(np.abs(expected - actual).max())
    # `difference > TOLERANCE` would be false for NaN.
    if not difference <= TOLERANCE:
        raise ParityError(
            f"{place}: PyTorch and ONNX differ by {difference:.2g}, over {TOLERANCE:g}; nothing "
            "was written"
        )
