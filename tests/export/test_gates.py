"""Squeeze-and-excitation layers that multiply by 1 are not part of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import Encoder, join_encoder
from dimml.runtime.session import Graph
from export.onnx import export_encoder, without_constant_gates
from tests.conftest import PretrainedFolder
from train.pretrained import read_model
from train.recipe import ModalityConfig

GATE_IS_ONE = 40.0
"""A sigmoid of this is 1 in float32."""


@pytest.fixture(scope="module")
def efficientnet(pretrained_folder: PretrainedFolder) -> tuple[Kind, Encoder]:
    """Return an encoder whose first gate always is 1."""
    folder = pretrained_folder("image", "efficientnet")
    modality = ModalityConfig(kind="image", encoder={"pretrained": str(folder)})
    model = read_model("input", modality)
    kind = KINDS["image"]("input", dict(model.preprocessing), model.assets)
    encoder = join_encoder(kind, model.load(), nn.Identity()).eval()
    set_gate(gates(encoder)[0], GATE_IS_ONE)
    return kind, encoder


def gates(encoder: nn.Module) -> list[Any]:
    modules = encoder.modules()
    return [m for m in modules if type(m).__name__ == "EfficientNetSqueezeExciteLayer"]


@torch.no_grad()
def set_gate(gate: Any, bias: float) -> None:
    gate.expand.weight.zero_()
    gate.expand.bias.fill_(bias)


def test_gate_that_is_one_is_left_out_and_the_features_stay(
    efficientnet: tuple[Kind, Encoder], tmp_path: Path
) -> None:
    kind, encoder = efficientnet
    assert len(gates(without_constant_gates(encoder))) == len(gates(encoder)) - 1
    export_encoder(encoder, kind, tmp_path / "encoder.onnx")
    pixels = np.random.default_rng(0).standard_normal((2, 3, *kind.config.size), np.float32)
    [features] = Graph(tmp_path / "encoder.onnx", "cpu").run({"pixels": pixels})
    with torch.no_grad():
        expected = encoder(torch.from_numpy(pixels))
    np.testing.assert_allclose(features, expected.numpy(), atol=1e-4)


def test_model_itself_keeps_its_gates(efficientnet: tuple[Kind, Encoder]) -> None:
    _, encoder = efficientnet
    before = list(encoder.state_dict())
    without_constant_gates(encoder)
    assert list(encoder.state_dict()) == before


def test_gate_that_is_not_one_stays(efficientnet: tuple[Kind, Encoder]) -> None:
    _, encoder = efficientnet
    set_gate(gates(encoder)[0], 1.0)
    try:
        assert without_constant_gates(encoder) is encoder
    finally:
        set_gate(gates(encoder)[0], GATE_IS_ONE)
