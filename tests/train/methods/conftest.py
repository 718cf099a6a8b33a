from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dimml.nn.model import MultimodalModel
from train.calibration import EncodedRows
from train.methods import build_method
from train.methods.base import Method
from train.recipe import TrainingConfig

NAMES = ("audio", "image", "text")
WIDTH = 6
CLASSES = 4
WARM_UP = 2


@pytest.fixture
def make() -> Callable[..., tuple[MultimodalModel, Method]]:
    """A method of a name, with options, and its model, whose encoders are linear."""

    def build(name: str, **options: Any) -> tuple[MultimodalModel, Method]:
        torch.manual_seed(0)
        encoders = [nn.Linear(5, WIDTH) for _ in NAMES]
        model = MultimodalModel(NAMES, encoders, WIDTH, CLASSES)
        return model, build_method(name, options, TrainingConfig(warm_up=WARM_UP), model)

    return build


@pytest.fixture
def batch() -> EncodedRows:
    """Features [64, 3, 6] with NaN where absent, present [64, 3] and labels [64]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (64,), generator=generator)
    features = torch.randn(64, len(NAMES), WIDTH, generator=generator)
    features[:, :, :CLASSES] += 2 * torch.eye(CLASSES)[labels].unsqueeze(1)
    present = torch.rand(64, len(NAMES), generator=generator) < 0.7
    present[torch.arange(64), torch.arange(64) % len(NAMES)] = True
    holed = features.masked_fill(~present.unsqueeze(-1), float("nan"))
    return EncodedRows(holed, present, labels)
