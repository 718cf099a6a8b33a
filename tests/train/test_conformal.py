"""Prediction sets: coverage by simulation, limits at the edge of a float, too few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dimml.bundle import Conformal
from train.calibration import EncodedRows
from train.conformal import conformal, conformal_rows, rows_needed, uncertified_text
from train.metrics import prediction_sets

NAMES = ("audio", "image")
CLASSES = 6


def answer(features: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    """Take the features of the present modalities as logits, and return their softmax."""
    return (features * mask.unsqueeze(-1)).sum(dim=1).softmax(dim=-1), None


def rows_of(logits: Tensor, labels: Tensor) -> EncodedRows:
    """Return rows whose first modality has the logits [N, K], and whose second one is absent."""
    features = torch.stack([logits, torch.zeros_like(logits)], dim=1)
    present = torch.tensor([[True, False]]).expand(len(labels), -1)
    return EncodedRows(features, present, labels)


def draw(count: int, seed: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Return logits [N, K] and labels, right in nine of ten rows and over-confident if sharp."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.randn(count, CLASSES, generator=generator)
    return sharpness * (noise + 2.5 * torch.eye(CLASSES)[labels]), labels


class TestCoverage:
    @pytest.mark.parametrize("sharpness", [0.3, 2.0, 12.0])
    @pytest.mark.parametrize(("coverage", "rows"), [(0.9, 9), (0.9, 50), (0.99, 99), (0.99, 250)])
    def test_mean_coverage_over_draws_is_at_least_nominal(
        self, coverage: float, rows: int, sharpness: float
    ) -> None:
        new_logits, new_labels = draw(4000, 0, sharpness)
        probabilities, _ = answer(*rows_of(new_logits, new_labels)[:2])
        covered = []
        for seed in range(1, 301):
            limits = conformal(
                answer, NAMES, rows_of(*draw(rows, seed, sharpness)), coverage, CLASSES
            )
            measured = prediction_sets(probabilities, new_labels, limits.min_probability("audio"))
            covered.append(measured["set_coverage"])
        error = np.std(covered) / np.sqrt(len(covered)) + np.sqrt(coverage * (1 - coverage) / 4000)
        assert np.mean(covered) >= coverage - 3 * error

    def test_limit_is_the_kth_largest_probability(self) -> None:
        # Of 20 scores, the ceil(21 * 0.9) = 19th smallest is the 2nd smallest probability.
        logits, labels = draw(20, 0, 1.0)
        probabilities, _ = answer(*rows_of(logits, labels)[:2])
        truth = probabilities[torch.arange(20), labels].sort().values
        limits = conformal(answer, NAMES, rows_of(logits, labels), 0.9, CLASSES)
        assert limits.min_probabilities["audio"] == pytest.approx(float(truth[1]), rel=2e-3)


class TestEdgeOfFloat:
    @pytest.mark.parametrize("probability", [1e-7, 1e-9, 1e-20])
    def test_confidently_wrong_row_does_not_admit_every_label(self, probability: float) -> None:
        # The true label of one row of 99 is the second of six, and 1 - p of it rounds to 1.
        logits = torch.tensor([0.0, -0.5, -5, -6, -7, -8]).repeat(99, 1)
        logits[:, 1:] += float(np.log(probability))
        labels = torch.zeros(99, dtype=torch.int64)
        labels[7] = 1
        rows = rows_of(logits, labels)
        limits = conformal(answer, NAMES, rows, 0.99, CLASSES)
        sets = prediction_sets(answer(*rows[:2])[0], labels, limits.min_probability("audio"))
        assert sets == {"set_coverage": 1.0, "set_size": 2.0}

    def test_difference_between_runtimes_does_not_exclude_equal_rows(self) -> None:
        # Every row has the same content, so that all labels of the rows tie.
        rows = rows_of(
            torch.tensor([[1.0, 0.9, -3, -3, -3, -3]]).repeat(50, 1), torch.ones(50).long()
        )
        limits = conformal(answer, NAMES, rows, 0.9, CLASSES)
        elsewhere = answer(*rows[:2])[0] * (1 - 1e-5)
        sets = prediction_sets(elsewhere, rows.labels, limits.min_probability("audio"))
        assert sets["set_coverage"] == 1.0


class TestTooFewRows:
    @pytest.mark.parametrize(("rows", "certified"), [(99, True), (98, False), (0, False)])
    def test_subset_with_too_few_rows_is_named(self, rows: int, certified: bool) -> None:
        limits = conformal(answer, NAMES, rows_of(*draw(rows, 0, 1.0)), 0.99, CLASSES)
        assert ("audio" in limits.min_probabilities) is certified
        expected = {"image": 0, "audio+image": 0} | ({} if certified else {"audio": rows})
        assert limits.uncertified == expected
        assert limits.min_probability("image") is None

    @pytest.mark.parametrize(
        ("coverage", "rows"), [(0.5, 1), (0.55, 2), (0.7, 3), (0.8, 4), (0.9, 9), (0.99, 99)]
    )
    def test_rows_needed_is_the_smallest_number(self, coverage: float, rows: int) -> None:
        assert rows_needed(coverage) == rows
        for count in (rows - 1, rows):
            limits = conformal(answer, NAMES, rows_of(*draw(count, 0, 1.0)), coverage, CLASSES)
            assert ("audio" in limits.min_probabilities) is (count == rows)

    def test_text_names_subsets_and_rows(self) -> None:
        text = uncertified_text(Conformal(coverage=0.99, uncertified={"audio": 98, "text": 0}))
        assert "every label for audio (98 rows), text (0 rows)" in text
        assert "needs 99 reserved rows" in text
        assert "about 297 rows of the validation split" in text

    def test_text_of_many_subsets_is_short(self) -> None:
        many = {f"m{number}": 3 for number in range(1000)}
        text = uncertified_text(Conformal(coverage=0.9, uncertified=many))
        assert "m7 (3 rows) and 992 others: " in text

    def test_text_is_empty_if_every_subset_has_a_limit(self) -> None:
        assert uncertified_text(None) == ""
        assert uncertified_text(Conformal(coverage=0.9, min_probabilities={"audio": 0.1})) == ""


class TestConformalRows:
    @pytest.mark.parametrize("count", [1, 2, 3, 100, 101])
    def test_conformal_rows_are_a_fixed_third(self, count: int) -> None:
        rows = conformal_rows(count)
        assert rows.dtype == torch.bool
        assert rows.shape == (count,)
        assert int(rows.sum()) == -(-count // 3)
        assert rows.equal(conformal_rows(count))

    @pytest.mark.parametrize("classes", [2, 3, 6, 9])
    def test_conformal_rows_are_balanced_if_labels_alternate(self, classes: int) -> None:
        labels = torch.arange(900) % classes
        shares = conformal_rows(900).float()
        by_class = [float(shares[labels == label].mean()) for label in range(classes)]
        assert by_class == pytest.approx([1 / 3] * classes, abs=0.15)
