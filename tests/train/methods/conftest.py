from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.adapter import Adapter
from train.calibration import EncodedRows
from train.methods import build_method
from train.methods.base import Method
from train.training_config import TrainingConfig

NAMES = ("audio", "image", "text")
WIDTH = 6
CLASSES = 4
WARM_UP = 2


@pytest.fixture
def make() -> Callable[..., tuple[MultimodalModel, Method]]:
    """Return a function that builds a method with options, and a model with linear encoders."""

    def build(name: str, **options: Any) -> tuple[MultimodalModel, Method]:
        torch.manual_seed(0)
        encoders = [Adapter(5, WIDTH, "linear") for _ in NAMES]
        model = MultimodalModel(NAMES, encoders, WIDTH, CLASSES)
        return model, build_method(name, options, TrainingConfig(warm_up=WARM_UP), model)

    return build


def widened(model: MultimodalModel, rows: EncodedRows) -> EncodedRows:
    """Return rows whose features are as wide as the model's, repeated for interaction heads."""
    repeats = model.feature_dim // WIDTH
    return rows._replace(features=rows.features.repeat(1, 1, repeats))


@pytest.fixture
def batch() -> EncodedRows:
    """Return rows with features [64, 3, 6] that are NaN where absent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (64,), generator=generator)
    features = torch.randn(64, len(NAMES), WIDTH, generator=generator)
    features[:, :, :CLASSES] += 2 * torch.eye(CLASSES)[labels].unsqueeze(1)
    present = torch.rand(64, len(NAMES), generator=generator) < 0.7
    present[torch.arange(64), torch.arange(64) % len(NAMES)] = True
    holed = features.masked_fill(~present.unsqueeze(-1), float("nan"))
    return EncodedRows(holed, present, labels)
