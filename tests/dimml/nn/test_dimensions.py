"""`dimml.nn.dimensions` against its definition, computed with exact fractions and loops."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dimml.nn import dimensions
from dimml.nn.dimensions import correct_counts, effective_dimensions


def dimension_scores(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    return correct_counts(features, labels, num_classes).double() / len(labels)


def literal_scores(features: Tensor, labels: Tensor, num_classes: int) -> list[Fraction]:
    rows = [[Fraction(value) for value in row] for row in features.double().tolist()]
    sample_classes = labels.tolist()
    scores = []
    for d in range(features.shape[1]):
        means = {}
        for c in range(num_classes):
            members = [
                row[d] for row, label in zip(rows, sample_classes, strict=True) if label == c
            ]
            if members:
                means[c] = sum(members, Fraction(0)) / len(members)
        correct = 0
        for row, label in zip(rows, sample_classes, strict=True):
            nearest = min(means, key=lambda c: (abs(row[d] - means[c]), c))
            correct += nearest == label
        scores.append(Fraction(correct, len(rows)))
    return scores


def literal_effective(features: Tensor, labels: Tensor, num_classes: int) -> list[bool]:
    scores = literal_scores(features, labels, num_classes)
    mean = sum(scores, Fraction(0)) / len(scores)
    return [score > mean for score in scores]


def assert_as_defined(features: Tensor, labels: Tensor, num_classes: int) -> None:
    expected = literal_scores(features, labels, num_classes)
    actual = dimension_scores(features, labels, num_classes)
    assert actual.tolist() == [float(score) for score in expected]
    effective = effective_dimensions(features, labels, num_classes)
    assert effective.dtype == torch.bool
    assert effective.tolist() == literal_effective(features, labels, num_classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("samples", "classes", "dims"), [(40, 3, 8), (25, 6, 5), (7, 2, 1)])
def test_scores_and_effective_dimensions_follow_the_definition(
    samples: int, classes: int, dims: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(samples)
    labels = torch.randint(classes, (samples,), generator=generator)
    noise = torch.randn(samples, dims, generator=generator)
    # The label enters each dimension with another strength, so that scores differ.
    features = noise + labels.unsqueeze(1) * torch.linspace(0, 3, dims)
    assert_as_defined(features.to(dtype), labels, classes)


def all_distances(features: Tensor, labels: Tensor, num_classes: int) -> list[int]:
    """Count as `correct_counts` does, from the distances of all samples to all class means."""
    one_hot = torch.nn.functional.one_hot(labels, num_classes).double()
    means = (one_hot.T @ features.double()) / one_hot.sum(dim=0).unsqueeze(1)
    # An empty class has no mean, and an infinite distance.
    distances = (features.double().unsqueeze(1) - means).abs().nan_to_num(nan=torch.inf)
    return (distances.argmin(dim=1) == labels.unsqueeze(1)).sum(dim=0).tolist()


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    samples=st.integers(1, 200),
    classes=st.integers(1, 60),
    values=st.integers(1, 12),
)
def test_counts_equal_those_of_all_distances_with_many_classes_and_ties(
    seed: int, samples: int, classes: int, values: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    # The first dimension is constant; the others have few values, so many means are equal.
    features = torch.randint(values, (samples, 5), generator=generator) / 2
    features[:, 0] = 0.5
    expected = all_distances(features, labels, classes)
    assert correct_counts(features, labels, classes).tolist() == expected


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_scores_follow_the_definition_with_many_ties(data: st.DataObject) -> None:
    # Small integers in few classes of two samples each give many equal means and distances.
    classes = data.draw(st.integers(1, 4))
    dims = data.draw(st.integers(1, 4))
    occurring = data.draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=4))
    labels = torch.tensor(occurring * 2)
    row = st.lists(st.integers(-2, 2), min_size=dims, max_size=dims)
    rows = data.draw(st.lists(row, min_size=len(labels), max_size=len(labels)))
    assert_as_defined(torch.tensor(rows, dtype=torch.float32), labels, classes)


def test_sample_between_two_means_goes_to_the_lower_class() -> None:
    # The means are 0 and 2, so both samples at 1 have equal distances.
    features = torch.tensor([[-1.0], [1.0], [1.0], [3.0]])
    assert dimension_scores(features, torch.tensor([0, 0, 1, 1]), 2).tolist() == [3 / 4]
    # With the classes exchanged, the other sample at 1 is correct.
    assert dimension_scores(features, torch.tensor([1, 1, 0, 0]), 2).tolist() == [3 / 4]
    lopsided = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    assert dimension_scores(lopsided, torch.tensor([0, 1, 0, 1]), 2).tolist() == [1 / 2]


def test_constant_dimension_is_right_for_the_lowest_class() -> None:
    # 0.1 has no exact binary form, so rounded sums would give the classes different means.
    features = torch.full((12, 1), 0.1)
    labels = torch.tensor([2] * 5 + [4] * 7)
    assert dimension_scores(features, labels, 6).tolist() == [5 / 12]


def test_class_without_samples_is_ignored() -> None:
    # Classes 0 and 4 are empty. With a mean of 0 for class 0, both samples near 0 would go to it.
    features = torch.tensor([[-0.1], [0.1], [5.0]])
    assert dimension_scores(features, torch.tensor([1, 2, 3]), 5).tolist() == [1.0]


def test_only_dimensions_above_the_average_are_effective() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.tensor(
        [
            # correct: all, 3 of 4 and 2 of 4 (a constant dimension)
            [0.0, 0.0, 1.0],
            [0.0, 0.0, 1.0],
            [1.0, 0.0, 1.0],
            [1.0, 1.0, 1.0],
        ]
    )
    assert dimension_scores(features, labels, 2).tolist() == [1.0, 0.75, 0.5]
    assert effective_dimensions(features, labels, 2).tolist() == [True, False, False]


@pytest.mark.parametrize("dims", range(1, 25))
def test_equal_dimensions_are_not_effective(dims: int) -> None:
    # The rounded mean of scores of 7/10 is below 0.7 for some of these numbers of dimensions.
    features = torch.ones(10, 1).expand(10, dims)
    labels = torch.tensor([0] * 7 + [1] * 3)
    assert dimension_scores(features, labels, 2).tolist() == [0.7] * dims
    assert not effective_dimensions(features, labels, 2).any()


@pytest.mark.parametrize("block", [1, 7, 24, 100, 10_000])
def test_chunk_size_does_not_change_scores(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (31,), generator=generator)
    features = torch.randn(31, 9, generator=generator) + labels.unsqueeze(1) * 0.5
    scores = dimension_scores(features, labels, 4)
    effective = effective_dimensions(features, labels, 4)
    assert 0 < effective.sum() < 9
    monkeypatch.setattr(dimensions, "MAX_BLOCK_ELEMENTS", block)
    assert dimension_scores(features, labels, 4).equal(scores)
    assert effective_dimensions(features, labels, 4).equal(effective)


@pytest.mark.parametrize("block", [64, 4096])
def test_only_one_chunk_of_values_is_searched_at_once(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    sizes = []
    searchsorted = torch.searchsorted

    def measured(means: Tensor, values: Tensor) -> Tensor:
        assert not values.requires_grad
        if values is not means:
            sizes.append(values.numel())
        return searchsorted(means, values)

    monkeypatch.setattr(torch, "searchsorted", measured)
    monkeypatch.setattr(dimensions, "MAX_BLOCK_ELEMENTS", block)
    features = torch.arange(50.0 * 40).reshape(50, 40).requires_grad_()
    dimension_scores(features, torch.arange(50) % 10, 10)
    # Each value is searched once; all distances to the means of 10 classes would be ten times that.
    assert sum(sizes) == 50 * 40
    assert max(sizes) <= block


def test_labels_may_have_any_integer_type() -> None:
    features = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    for dtype in (torch.int64, torch.int32, torch.uint8):
        labels = torch.tensor([0, 1], dtype=dtype)
        assert dimension_scores(features, labels, 2).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.ones(3), torch.tensor([0, 1, 0]), r"got \[3\] and \[3\]"),
        (torch.ones(3, 2), torch.tensor([0, 1]), r"got \[3, 2\] and \[2\]"),
        (torch.ones(3, 2), torch.tensor([[0, 1, 0]]), r"got \[3, 2\] and \[1, 3\]"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), "at least one sample"),
        (torch.ones(2, 0), torch.tensor([0, 1]), "at least one sample"),
        (torch.ones(2, 2), torch.tensor([0, 2]), r"0 \.\. 1 \(num_classes=2\), got 0 \.\. 2"),
        (torch.ones(2, 2), torch.tensor([-1, 1]), r"got -1 \.\. 1"),
        (torch.ones(2, 2), torch.tensor([0.0, 1.0]), "integer class indices, got torch.float32"),
        (torch.ones(2, 2), torch.tensor([False, True]), "integer class indices, got torch.bool"),
        (torch.tensor([[1.0], [float("nan")]]), torch.tensor([0, 1]), "only the rows that have"),
        (torch.tensor([[1.0], [float("inf")]]), torch.tensor([0, 1]), "only the rows that have"),
    ],
)
@pytest.mark.parametrize("function", [correct_counts, effective_dimensions])
def test_invalid_features_and_labels_are_rejected(function, features, labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(features, labels, 2)
