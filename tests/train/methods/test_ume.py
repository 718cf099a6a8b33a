from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from train.calibration import EncodedRows

Make = Callable[..., Any]


def test_present_modalities_count_alike(make: Make, batch: EncodedRows) -> None:
    model, method = make("ume")
    features, present, _ = batch
    readout = method.readout(model)
    readout.calibrate(method.modalities, batch)
    _, weights = readout(features, present)
    assert weights is not None
    expected = present / present.sum(dim=1, keepdim=True)
    assert weights.allclose(expected.to(weights.dtype), atol=1e-5)


def test_a_second_row_weights_them_by_certainty(make: Make, batch: EncodedRows) -> None:
    model, method = make("ume")
    rows = {"ume": method.readout(model), **method.references(model, lambda: batch)}
    shares = {}
    for name, readout in rows.items():
        readout.calibrate(method.modalities, batch)
        shares[name] = readout(*batch[:2])[1]
    assert list(shares) == ["ume", "ume+fusion"]
    two = batch[1].sum(dim=1) > 1
    assert float((shares["ume"] - shares["ume+fusion"])[two].abs().max()) > 0.001


def test_each_head_learns_from_its_own_modality_alone(make: Make, batch: EncodedRows) -> None:
    model, method = make("ume")
    features, present, labels = batch
    only_image = present & torch.tensor([False, True, False])
    method.objective(model, EncodedRows(features, only_image, labels), 0)["isolated"].backward()
    gradient = model.fusion.classifier.weight.grad
    assert gradient[1].any()
    assert not gradient[0].any()
    assert not gradient[2].any()
