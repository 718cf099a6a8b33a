"""The distance of features from the training data, against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dimml.nn.distance import DistanceScale
from dimml.nn.fusion import CertaintyFusion
from train.calibration import EncodedRows
from train.distance import fit_distance

DIM, CLASSES = 6, 3


def clusters(rows: int, seed: int = 0, spread: float = 1.0) -> EncodedRows:
    """Return rows of two modalities around one mean per class, with correlated dimensions.

    Args:
        rows: Number of rows.
        seed: Draws the rows; the means and the correlation are always the same.
        spread: Standard deviation around the means, 1 in training data.
    """
    fixed = torch.Generator().manual_seed(7)
    means = 5 * torch.randn(CLASSES, 2, DIM, generator=fixed)
    mixing = torch.eye(DIM) + 0.2 * torch.randn(DIM, DIM, generator=fixed)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % CLASSES
    noise = torch.randn(rows, 2, DIM, generator=generator) @ mixing
    present = torch.ones(rows, 2, dtype=torch.bool)
    return EncodedRows(means[labels] + spread * noise, present, labels)


def fitted(rows: EncodedRows) -> DistanceScale:
    scale = DistanceScale(2, DIM, CLASSES)
    fit_distance(scale, rows)
    return scale


def test_scale_is_the_mahalanobis_distance_to_the_nearest_class() -> None:
    rows = clusters(3000)
    scale = fitted(rows)
    points = clusters(50, seed=1, spread=3.0).features
    for slot in range(2):
        features = rows.features[:, slot].double()
        means = torch.stack([features[rows.labels == c].mean(dim=0) for c in range(CLASSES)])
        residuals = features - means[rows.labels]
        inverse = torch.linalg.inv(residuals.T @ residuals / len(features))
        difference = points[:, slot].double().unsqueeze(1) - means
        squares = torch.einsum("nkd,de,nke->nk", difference, inverse, difference).amin(dim=1)
        expected = (squares / DIM).clamp_min(1).float()
        # The shrinkage and the floor make small directions look wider.
        assert scale(points)[:, slot].allclose(expected, rtol=0.15)
        assert (expected > 2).any()


def test_new_rows_like_the_training_data_keep_their_logits() -> None:
    scale = fitted(clusters(3000))
    assert float(scale(clusters(500, seed=2).features).mean()) < 1.4
    assert float(scale(clusters(500, seed=2, spread=4.0).features).mean()) > 8


def test_scale_is_one_before_the_fit_and_for_modalities_with_few_rows() -> None:
    points = clusters(50, seed=1, spread=9.0).features
    assert DistanceScale(2, DIM, CLASSES)(points).eq(1).all()
    few = clusters(300)
    few.present[2 * CLASSES - 1 :, 1] = False
    scale = fitted(few)
    assert scale(points)[:, 1].eq(1).all()
    assert (scale(points)[:, 0] > 1).any()


def test_fewer_rows_than_dimensions_give_a_finite_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 1, 40, generator=generator)
    rows = EncodedRows(features, torch.ones(12, 1, dtype=torch.bool), torch.arange(12) % 2)
    scale = DistanceScale(1, 40, 2)
    fit_distance(scale, rows)
    fresh = torch.randn(20, 1, 40, generator=generator)
    assert scale(fresh).isfinite().all()
    # New rows lie outside the span of so few, but no direction counts for everything.
    assert float(scale(fresh).mean()) < 5


def test_rows_that_are_alike_within_their_class_are_usual() -> None:
    # Such as one text per class, whose features differ by the rounding of the encoder's batches.
    rows = clusters(300)
    means = torch.stack([rows.features[rows.labels == c].mean(dim=0) for c in range(CLASSES)])
    generator = torch.Generator().manual_seed(0)
    noise = 1e-6 * torch.randn(rows.features.shape, generator=generator)
    scale = fitted(rows._replace(features=means[rows.labels] + noise))
    assert scale(means[rows.labels]).allclose(torch.ones(300, 2))


@pytest.mark.parametrize("constant", ["dimension", "class", "all"])
def test_data_that_do_not_vary_are_no_error(constant: str) -> None:
    rows = clusters(60)
    if constant == "dimension":
        rows.features[..., 0] = 3.0
    elif constant == "class":
        rows.features[rows.labels == 1] = 2.0
    else:
        rows.features[:] = 1.0
    assert fitted(rows)(clusters(20, seed=1).features).isfinite().all()


def test_class_without_rows_is_never_the_nearest() -> None:
    rows = clusters(300)
    scale = fitted(rows.select(rows.labels != 2))
    seen, unseen = (rows.features[rows.labels == c] for c in (0, 2))
    assert float(scale(seen).mean()) < 1.4
    assert float(scale(unseen).mean()) > float(scale(seen).mean())
    assert scale(torch.zeros(1, 2, DIM)).isfinite().all()


def test_unusual_input_has_flat_logits_and_a_low_weight() -> None:
    rows = clusters(3000)
    fusion = CertaintyFusion(DIM, CLASSES, 2)
    nn.init.normal_(fusion.classifier.weight, generator=torch.Generator().manual_seed(0))
    fit_distance(fusion.distance, rows)
    fusion.requires_grad_(False)
    usual = clusters(200, seed=3)
    noisy = usual.features.clone()
    noisy[:, 0] = clusters(200, seed=3, spread=6.0).features[:, 0]
    _, weights, logits = fusion(noisy, usual.present)
    _, before, clean = fusion(usual.features, usual.present)
    assert float(weights[:, 0].mean()) < float(before[:, 0].mean()) / 3
    scale = fusion.distance(noisy)[:, 0]
    raw = fusion.classifier(noisy[:, 0])
    assert logits[:, 0].allclose(raw / scale.unsqueeze(1), atol=1e-5)
    assert logits[:, 1].equal(clean[:, 1])
    alone = torch.tensor([True, False]).expand(200, -1)
    probabilities, *_ = fusion(noisy, alone)
    assert probabilities.allclose((raw / scale.unsqueeze(1)).softmax(dim=1), atol=1e-6)
