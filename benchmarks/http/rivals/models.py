"""The models that the rivals serve, behind the steps of `dimml.Predictor`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.runtime.execution import EncoderCall, HostPath
from train.run import load_run


class TorchPath(HostPath):
    """Runs the eager PyTorch model of a run in place of the bundle's graphs.

    Args:
        run: Folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._model = load_run(run).model.eval()

    @torch.inference_mode()
    def encode(self, calls: Sequence[EncoderCall], present: np.ndarray) -> torch.Tensor:
        features = torch.zeros(*present.shape, self._model.feature_dim)
        for slot, kind, rows, items in calls:
            tensors = {
                name: torch.from_numpy(np.ascontiguousarray(array))
                for name, array in kind.collate(items).items()
            }
            features[rows, slot] = self._model.encoders[slot](**tensors)
        return features

    @torch.inference_mode()
    def classify(self, features: torch.Tensor, present: np.ndarray) -> list[np.ndarray]:
        outputs = self._model.fusion(features, torch.from_numpy(present))
        return [tensor.numpy() for tensor in outputs]


def torch_predictor(run: Path, bundle: Path) -> Predictor:
    """Return a predictor that computes with the PyTorch model and answers for the bundle."""
    loaded = Bundle.load(bundle)
    return Predictor(loaded, loaded.kinds(), TorchPath(run), "cpu")


def rival_predictor() -> Predictor:
    """Return the predictor that the environment describes.

    `RIVAL_BUNDLE` names the bundle. With `RIVAL_RUN`, the PyTorch model of that run computes with
    `RIVAL_THREADS` threads (default: PyTorch's own number). Without it, onnxruntime computes.
    """
    bundle = Path(os.environ["RIVAL_BUNDLE"])
    if "RIVAL_RUN" not in os.environ:
        return Predictor.load(bundle, "cpu", threads=1)
    if threads := os.environ.get("RIVAL_THREADS"):
        torch.set_num_threads(int(threads))
    return torch_predictor(Path(os.environ["RIVAL_RUN"]), bundle)
