"""`classifier.onnx` against the PyTorch fusion that it is exported from."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.model import MultimodalModel
from export.onnx import export_classifier

DIMS, CLASSES = 5, 4

Exported = tuple[CertaintyFusion, onnxruntime.InferenceSession]


def all_subsets(modalities: int) -> Tensor:
    """Return every non-empty subset, bool [2 ** M - 1, M]."""
    rows = itertools.product([False, True], repeat=modalities)
    return torch.tensor([row for row in rows if any(row)])


def random_features(present: Tensor, filler: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(*present.shape, DIMS, generator=generator)
    return features.masked_fill(~present.unsqueeze(-1), filler)


def run(session: onnxruntime.InferenceSession, features: Tensor, present: Tensor) -> list:
    return session.run(None, {"features": features.numpy(), "present": present.numpy()})


@pytest.fixture(scope="module", params=[1, 3])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a fusion whose temperatures differ, and a session of its graph."""
    modalities: int = request.param
    path: Path = tmp_path_factory.mktemp("onnx") / "classifier.onnx"
    torch.manual_seed(0)
    names = [f"m{m}" for m in range(modalities)]
    model = MultimodalModel(names, [nn.Identity() for _ in names], DIMS, CLASSES).eval()
    subsets = 1.5 + 0.25 * torch.arange(2**modalities)
    subsets[[2**m for m in range(modalities)]] = 1
    model.fusion.set_calibration([0.5 + 0.4 * m for m in range(modalities)], 0.3, subsets)
    export_classifier(model, path)
    return model.fusion, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_classifier_graph_has_the_names_and_types_of_the_format(exported: Exported) -> None:
    fusion, session = exported
    modalities = len(fusion.modality_temperature)
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("features", "tensor(float)", [modalities, DIMS]),
        ("present", "tensor(bool)", [modalities]),
    ]
    assert [(o.name, o.type, o.shape[1:]) for o in session.get_outputs()] == [
        ("probabilities", "tensor(float)", [CLASSES]),
        ("weights", "tensor(float)", [modalities]),
        ("modality_logits", "tensor(float)", [modalities, CLASSES]),
    ]
    for value in [*session.get_inputs(), *session.get_outputs()]:
        assert not isinstance(value.shape[0], int)


@pytest.mark.parametrize("filler", [0.0, float("nan"), float("inf")])
def test_classifier_graph_equals_torch_for_every_subset(exported: Exported, filler: float) -> None:
    fusion, session = exported
    present = all_subsets(len(fusion.modality_temperature))
    with torch.no_grad():
        expected = fusion(random_features(present, 0.0), present)
    outputs = run(session, random_features(present, filler), present)
    for actual, expected_output in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(actual, expected_output.numpy(), atol=1e-5)


def test_classifier_graph_answers_each_row_independently(exported: Exported) -> None:
    fusion, session = exported
    present = all_subsets(len(fusion.modality_temperature))
    features = random_features(present, float("nan"))
    together = run(session, features, present)
    for i in range(len(present)):
        alone = run(session, features[i : i + 1], present[i : i + 1])
        for expected, actual in zip(together, alone, strict=True):
            assert actual.shape[0] == 1
            np.testing.assert_allclose(actual[0], expected[i], atol=1e-5)
