"""`dimml.nn.fusion` against its formulas, computed with loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dimml.nn.fusion import CertaintyFusion, certainty, certainty_weights
from dimml.nn.masks import subset_index

NAN = float("nan")
DIMS, CLASSES = 5, 4


def all_subsets(modalities: int) -> Tensor:
    """Return all non-empty subsets, bool [2 ** M - 1, M]."""
    rows = itertools.product([False, True], repeat=modalities)
    return torch.tensor([row for row in rows if any(row)])


def calibrated_fusion(modalities: int) -> CertaintyFusion:
    """Return a fusion whose temperatures differ from 1 and from each other where they may."""
    generator = torch.Generator().manual_seed(modalities)
    fusion = CertaintyFusion(DIMS, CLASSES, modalities)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    subsets = 1.5 + 0.25 * torch.arange(2**modalities)
    subsets[[2**m for m in range(modalities)]] = 1
    fusion.set_calibration([0.5 + 0.4 * m for m in range(modalities)], 0.3, subsets)
    return fusion.eval()


def random_features(present: Tensor, filler: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(*present.shape, DIMS, generator=generator)
    return features.masked_fill(~present.unsqueeze(-1), filler)


def literal_softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def literal_weights(logits: list[list[float]], present: list[bool], t: float) -> list[float]:
    """Return the weights of one sample's modalities."""
    exponentials = [
        math.exp(max(literal_softmax(z)) / t) if is_present else 0.0
        for z, is_present in zip(logits, present, strict=True)
    ]
    return [value / sum(exponentials) for value in exponentials]


def literal_fusion(
    fusion: CertaintyFusion, features: list[list[float]], present: list[bool]
) -> tuple[list[float], list[float], list[list[float]]]:
    """Return probabilities, weights and calibrated logits per modality of one sample."""
    matrix = fusion.classifier.weight.tolist()
    bias = fusion.classifier.bias.tolist()
    logits = []
    for m, vector in enumerate(features):
        t = fusion.modality_temperature[m].item()
        products = [sum(w * x for w, x in zip(row, vector, strict=True)) for row in matrix]
        z = [(product + b) / t for product, b in zip(products, bias, strict=True)]
        logits.append(z if present[m] else [0.0] * CLASSES)
    weights = literal_weights(logits, present, fusion.fusion_temperature.item())
    number = sum(2**m for m, is_present in enumerate(present) if is_present)
    t = fusion.subset_temperature[number].item()
    fused = [
        sum(w * z[k] for w, z in zip(weights, logits, strict=True)) / t for k in range(CLASSES)
    ]
    return literal_softmax(fused), weights, logits


def assert_close(actual: Tensor, expected: object) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def assert_as_defined(
    fusion: CertaintyFusion,
    features: Tensor,
    present: Tensor,
    answers: tuple[Tensor, Tensor, Tensor],
) -> None:
    for i in range(len(present)):
        literal = literal_fusion(fusion, features[i].tolist(), present[i].tolist())
        for actual, expected in zip(answers, literal, strict=True):
            assert_close(actual[i], expected)


def test_certainty_is_the_largest_probability() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)], [2.0, 2.0]]])
    assert_close(certainty(logits), [[0.75, 0.5]])


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_weights_are_a_softmax_of_certainty_over_present_modalities(
    modalities: int, temperature: float
) -> None:
    present = all_subsets(modalities)
    logits = torch.randn(*present.shape, CLASSES, generator=torch.Generator().manual_seed(0)) * 3
    weights = certainty_weights(certainty(logits), present, temperature)
    for i in range(len(present)):
        expected = literal_weights(logits[i].tolist(), present[i].tolist(), temperature)
        assert_close(weights[i], expected)
    assert_close(weights.sum(dim=1), torch.ones(len(present)))
    assert (weights[~present] == 0).all()
    assert certainty_weights(certainty(logits), present, torch.tensor(temperature)).equal(weights)


def test_more_certain_modality_weighs_more() -> None:
    logits = torch.tensor([[[9.0, 0.0], [1.0, 0.0]]])
    first, second = certainty_weights(certainty(logits), torch.ones(1, 2, dtype=torch.bool), 1.0)[0]
    assert first > second


def test_nan_in_absent_logits_affects_no_weight_or_gradient() -> None:
    present = torch.tensor([[True, False, True]])
    logits = torch.tensor([[[1.0, 0.0], [NAN, NAN], [0.5, 2.0]]], requires_grad=True)
    CertaintyFusion(DIMS, 2, 3).fuse(logits, present)[1][0, 0].backward()
    assert (logits.grad[~present] == 0).all()
    assert (logits.grad[present] != 0).all()


def test_subsets_are_numbered_by_powers_of_two() -> None:
    rows = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]]
    index = subset_index(torch.tensor(rows, dtype=torch.bool))
    assert index.dtype == torch.int64
    assert index.tolist() == [0, 1, 2, 4, 5, 7]


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_fusion_follows_the_definition_for_every_subset(modalities: int) -> None:
    fusion = calibrated_fusion(modalities)
    present = all_subsets(modalities)
    features = random_features(present)
    probabilities, weights, logits = fusion(features, present)
    assert_as_defined(fusion, features, present, (probabilities, weights, logits))
    assert_close(probabilities.sum(dim=1), torch.ones(len(present)))
    assert_close(weights.sum(dim=1), torch.ones(len(present)))
    assert (weights[~present] == 0).all()
    assert (logits[~present] == 0).all()


@pytest.mark.parametrize("modalities", [2, 3])
def test_single_modality_answers_its_own_softmax(modalities: int) -> None:
    fusion = calibrated_fusion(modalities)
    present = torch.eye(modalities, dtype=torch.bool)
    probabilities, weights, logits = fusion(random_features(present), present)
    assert probabilities.equal(logits[present].softmax(dim=-1))
    assert weights.equal(present.float())


def test_new_fusion_has_temperatures_of_one() -> None:
    fusion = CertaintyFusion(DIMS, CLASSES, 3)
    present = torch.ones(2, 3, dtype=torch.bool)
    features = random_features(present)
    probabilities, weights, logits = fusion(features, present)
    assert_close(logits, fusion.classifier(features))
    assert_close(weights, certainty_weights(certainty(logits), present, 1.0))
    assert_close(probabilities, (weights.unsqueeze(-1) * logits).sum(dim=1).softmax(dim=-1))


@pytest.mark.parametrize("filler", [NAN, float("inf"), -float("inf"), 1e30])
def test_content_of_absent_slots_changes_no_answer(filler: float) -> None:
    fusion = calibrated_fusion(3)
    present = all_subsets(3)
    clean = fusion(random_features(present), present)
    filled = fusion(random_features(present, filler), present)
    for expected, actual in zip(clean, filled, strict=True):
        assert expected.isfinite().all()
        assert actual.equal(expected)
    filled_logits = clean[2].masked_fill(~present.unsqueeze(-1), filler)
    for expected, actual in zip(clean, fusion.fuse(filled_logits, present), strict=False):
        assert actual.allclose(expected, atol=1e-6)


def test_nan_in_absent_slots_affects_no_gradient() -> None:
    fusion = calibrated_fusion(3)
    present = all_subsets(3)
    features = random_features(present, NAN).requires_grad_()
    fusion(features, present)[0][:, 0].sum().backward()
    assert (features.grad[~present] == 0).all()
    assert (features.grad[present] != 0).all()
    for parameter in fusion.parameters():
        assert parameter.grad.isfinite().all()


def test_fuse_equals_forward_on_calibrated_logits() -> None:
    fusion = calibrated_fusion(3)
    present = all_subsets(3)
    probabilities, weights, logits = fusion(random_features(present), present)
    again = fusion.fuse(logits, present)
    assert again[0].equal(probabilities)
    assert again[1].allclose(weights, atol=1e-6)


def test_answer_does_not_depend_on_other_rows() -> None:
    fusion = calibrated_fusion(3)
    present = all_subsets(3)
    features = random_features(present, NAN)
    together = fusion(features, present)
    for i in range(len(present)):
        alone = fusion(features[i : i + 1], present[i : i + 1])
        for expected, actual in zip(together, alone, strict=True):
            assert_close(actual[0], expected[i])


def test_empty_row_is_nan_and_affects_no_other_row() -> None:
    fusion = calibrated_fusion(3)
    present = torch.tensor([[True, False, True], [False, False, False]])
    features = random_features(present)
    probabilities, weights, _ = fusion(features, present)
    assert probabilities[1].isnan().all()
    assert weights[1].isnan().all()
    assert_close(probabilities[0], fusion(features[:1], present[:1])[0][0])


def test_wrong_number_of_modalities_is_rejected() -> None:
    fusion = calibrated_fusion(3)
    three = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"expected .* 3 modalities"):
        fusion(torch.ones(2, 1, DIMS), three)
    with pytest.raises(ValueError, match=r"expected .* 3 modalities"):
        fusion(torch.ones(2, 3, DIMS), three[:, :1])
    with pytest.raises(ValueError, match=r"expected .* 3 modalities"):
        fusion.fuse(torch.ones(2, 1, CLASSES), three)
    with pytest.raises(ValueError, match=r"expected .* got \[3, 5\] and \[3\]"):
        fusion(torch.ones(3, DIMS), three[0])


def test_fusion_supports_ten_modalities() -> None:
    present = torch.ones(1, 10, dtype=torch.bool)
    fusion = calibrated_fusion(10)
    features = random_features(present)
    assert_as_defined(fusion, features, present, fusion(features, present))
