"""The trained PyTorch model behind plain Python calls, as the PyTorch rivals serve it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.http.rivals.answers import Answers
from dimml.bundle import Bundle
from dimml.modalities import Arrays
from train.run import load_run


@dataclass(frozen=True)
class Input:
    """One request after preprocessing: arrays and warnings of the modalities it has."""

    arrays: Mapping[str, Arrays]
    warnings: Mapping[str, tuple[str, ...]]


class TorchModel:
    """A run's model with dimml's own decoding and preprocessing.

    Args:
        run: the run's folder.
        bundle: its export, for the identity that the answers carry.
    """

    def __init__(self, run: Path, bundle: Path) -> None:
        loaded = load_run(run)
        self.model = loaded.model.eval()
        self.kinds = loaded.kinds
        self.answers = Answers.of(Bundle.load(bundle))

    @classmethod
    def from_environment(cls) -> TorchModel:
        """The model that `RIVAL_RUN` and `RIVAL_BUNDLE` name, with `RIVAL_THREADS` threads."""
        if threads := os.environ.get("RIVAL_THREADS"):
            torch.set_num_threads(int(threads))
        return cls(Path(os.environ["RIVAL_RUN"]), Path(os.environ["RIVAL_BUNDLE"]))

    def prepare(self, sample: Mapping[str, Any]) -> Input:
        """Decodes and preprocesses what a request has."""
        arrays, warnings = {}, {}
        for name, value in sample.items():
            raw = self.kinds[name].decode(value)
            arrays[name] = self.kinds[name].preprocess(raw)
            warnings[name] = self.kinds[name].warnings(raw)
        return Input(arrays, warnings)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """One answer per input; each encoder runs once per shape that is present."""
        features = torch.zeros(len(inputs), len(self.kinds), self.model.feature_dim)
        present = torch.zeros(len(inputs), len(self.kinds), dtype=torch.bool)
        for slot, (name, kind) in enumerate(self.kinds.items()):
            buckets: dict[object, list[int]] = defaultdict(list)
            for row, item in enumerate(inputs):
                if name in item.arrays:
                    buckets[kind.bucket(item.arrays[name])].append(row)
            for rows in buckets.values():
                batch = kind.collate([inputs[row].arrays[name] for row in rows])
                tensors = {
                    key: torch.from_numpy(np.ascontiguousarray(array))
                    for key, array in batch.items()
                }
                features[rows, slot] = self.model.encoders[slot](**tensors)
                present[rows, slot] = True
        probabilities, weights, logits = (
            tensor.numpy() for tensor in self.model.fusion(features, present)
        )
        warnings = [item.warnings for item in inputs]
        return self.answers.build(present.numpy(), probabilities, weights, logits, warnings)
