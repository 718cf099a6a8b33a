"""Calibration on data with known true probabilities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dimml.nn.fusion import CertaintyFusion
from dimml.samples import subset_name, subsets
from train.calibration import (
    POOLED_TEMPERATURES,
    EncodedRows,
    Rule,
    calibrate,
    subset_rows,
)

NAMES = ("audio", "image")
SUBSETS = list(subsets(NAMES))
CLASSES = 5
RULES: tuple[Rule, ...] = ("average", "certainty", "pooled")
DISTORTION = torch.tensor([3.0, 0.5])
"""The factor of each modality's true logits: one over-confident, one under-confident."""


def evidence(samples: int, seed: int, missing: float = 0.2) -> EncodedRows:
    """Return rows whose features are distorted logits [N, 2, K].

    A modality observes the one-hot label times 1.5 in normal noise. By Bayes' rule its true logits
    are 1.5 times the observation.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    seen = torch.randn(samples, len(NAMES), CLASSES, generator=generator)
    seen += 1.5 * torch.eye(CLASSES)[labels].unsqueeze(1)
    present = torch.rand(samples, len(NAMES), generator=generator) >= missing
    return EncodedRows(1.5 * seen * DISTORTION.unsqueeze(-1), present, labels)


def fresh(classes: int = CLASSES, modalities: int = len(NAMES)) -> CertaintyFusion:
    """Return a fusion whose classifier returns the features as logits."""
    fusion = CertaintyFusion(classes, classes, modalities)
    with torch.no_grad():
        fusion.classifier.weight.copy_(torch.eye(classes))
        fusion.classifier.bias.zero_()
    return fusion


def mask_of(subset: tuple[str, ...]) -> Tensor:
    return torch.tensor([name in subset for name in NAMES])


@torch.no_grad()
def subset_probabilities(
    fusion: CertaintyFusion, logits: Tensor, subset: tuple[str, ...]
) -> Tensor:
    """Return the probabilities [N, K] of a subset."""
    probabilities: Tensor = fusion(logits, mask_of(subset).expand(len(logits), -1))[0]
    return probabilities


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    confidence, labels_of_answers = (part.numpy() for part in probabilities.max(dim=1))
    bins = np.minimum((confidence * 15).astype(int), 14)
    right = labels_of_answers == labels.numpy()
    return sum(
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )


@pytest.fixture(scope="module")
def calibrated() -> CertaintyFusion:
    fusion = fresh()
    calibrate(fusion, evidence(4000, seed=0), "certainty")
    return fusion


class TestTemperatures:
    def test_modality_temperatures_recover_a_known_distortion(
        self, calibrated: CertaintyFusion
    ) -> None:
        assert calibrated.modality_temperature.tolist() == pytest.approx([3.0, 0.5], rel=0.1)

    def test_temperature_ignores_rows_that_lack_the_modality(self) -> None:
        logits, present, labels = evidence(1000, seed=0)
        clean, changed = fresh(), fresh()
        calibrate(clean, EncodedRows(logits, present, labels), "certainty")
        junk = torch.where(present.unsqueeze(-1), logits, torch.tensor(1e3))
        calibrate(changed, EncodedRows(junk, present, labels), "certainty")
        for first, second in zip(clean.buffers(), changed.buffers(), strict=True):
            assert first.equal(second)

    def test_modality_without_rows_takes_the_temperature_of_the_others(self) -> None:
        logits, present, labels = evidence(500, seed=0)
        present[:, 1] = False
        fusion = fresh()
        calibrate(fusion, EncodedRows(logits, present, labels), "certainty")
        assert fusion.modality_temperature[0] == pytest.approx(3.0, rel=0.2)
        assert fusion.modality_temperature[1] == pytest.approx(3.0, rel=0.2)
        assert fusion.subset_temperature.tolist() == [1, 1, 1, 1]

    @pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
    def test_calibration_reduces_the_calibration_error(
        self, calibrated: CertaintyFusion, subset: tuple[str, ...]
    ) -> None:
        logits, _, labels = evidence(4000, seed=1)
        before = calibration_error(subset_probabilities(fresh(), logits, subset), labels)
        after = calibration_error(subset_probabilities(calibrated, logits, subset), labels)
        assert after < 0.025
        assert before > 3 * after

    @pytest.mark.parametrize("name", NAMES)
    def test_calibration_keeps_the_label_of_a_single_modality(
        self, calibrated: CertaintyFusion, name: str
    ) -> None:
        logits, _, _ = evidence(2000, seed=2)
        before, after = (
            subset_probabilities(fusion, logits, (name,)) for fusion in (fresh(), calibrated)
        )
        assert after.argmax(dim=1).equal(before.argmax(dim=1))
        assert not torch.allclose(before, after, atol=0.05)

    def test_two_calibrated_modalities_beat_either_alone(self, calibrated: CertaintyFusion) -> None:
        logits, _, labels = evidence(4000, seed=3)
        nll = {
            subset_name(subset): float(
                torch.nn.functional.nll_loss(
                    subset_probabilities(calibrated, logits, subset).log(), labels
                )
            )
            for subset in SUBSETS
        }
        assert nll["audio+image"] < 0.8 * min(nll["audio"], nll["image"])


@pytest.mark.parametrize("rule", ["paper", "sum", "average", "certainty", "pooled"])
def test_bundle_of_one_modality_is_calibrated_by_every_rule(rule: Rule) -> None:
    features, _, labels = evidence(1000, seed=0)
    fusion = fresh(modalities=1)
    calibrate(fusion, EncodedRows(features[:, :1], torch.ones(1000, 1) > 0, labels), rule)
    assert fusion.subset_temperature.tolist() == [1, 1]
    expected = 1.0 if rule == "paper" else 3.0
    assert float(fusion.modality_temperature) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("rule", ["sum", "pooled"])
def test_eight_modalities_with_few_rows_are_calibrated_on_other_rows(rule: Rule) -> None:
    names = tuple(f"m{slot}" for slot in range(8))
    torch.manual_seed(0)

    def draw(samples: int) -> EncodedRows:
        labels = torch.randint(0, CLASSES, (samples,))
        seen = torch.randn(samples, 8, CLASSES) + torch.eye(CLASSES)[labels].unsqueeze(1)
        return EncodedRows(3 * seen, torch.rand(samples, 8) < 0.5, labels)

    rows, fresh_rows = draw(160), draw(2000)
    fusion = fresh(modalities=8)
    calibrate(fusion, rows, rule)
    assert min(int(chosen.sum()) for _, chosen, _ in subset_rows(names, rows.present)) < 5
    for size in (2, 4, 6, 8):
        mask = (torch.arange(8) < size).expand(2000, -1)
        with torch.no_grad():
            confidence, answers = fusion(fresh_rows.features, mask)[0].max(dim=1)
        accuracy = float((answers == fresh_rows.labels).float().mean())
        # With temperatures of a few rows each, the gaps are up to 0.5.
        assert float(confidence.mean()) == pytest.approx(accuracy, abs=0.1), size


class TestRules:
    @pytest.mark.parametrize("rule", ["average", "certainty", "pooled"])
    def test_rule_calibrates_modalities_and_subsets(self, rule: Rule) -> None:
        fusion = fresh()
        calibrate(fusion, evidence(2000, seed=0), rule)
        assert fusion.modality_temperature.tolist() == pytest.approx([3.0, 0.5], rel=0.15)
        assert fusion.subset_temperature[3] != 1

    def test_paper_rule_keeps_logits(self) -> None:
        fusion = fresh()
        calibrate(fusion, evidence(500, seed=0), "paper")
        assert fusion.modality_temperature.tolist() == [1, 1]
        assert fusion.subset_temperature.tolist() == [1, 1, 1, 1]
        assert fusion.fusion_temperature.item() in (1, 3)

    def test_pooling_halves_the_weight_of_a_duplicated_modality(self) -> None:
        """Two copies of a modality stand beside another one, so each copy should count half."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 3, (4000,), generator=generator)
        noise = torch.randn(4000, 2, 3, generator=generator)
        one, other = (torch.eye(3)[labels] + noise[:, i] for i in (0, 1))
        logits = torch.stack([one, one, other], dim=1)
        present = torch.ones(4000, 3, dtype=torch.bool)
        likelihood = {}
        for rule in RULES:
            fusion = fresh(classes=3, modalities=3)
            rows = EncodedRows(logits[:2000], present[:2000], labels[:2000])
            calibrate(fusion, rows, rule)
            scaled = logits[2000:] / fusion.modality_temperature.unsqueeze(-1)
            probabilities, weights = fusion.fuse(scaled, present[2000:])
            likelihood[rule] = float(probabilities[torch.arange(2000), labels[2000:]].log().mean())
        assert likelihood["pooled"] > likelihood["average"]
        assert likelihood["pooled"] > likelihood["certainty"]
        mean = weights.mean(dim=0).tolist()
        assert mean[2] > 1.2 * mean[0]
        assert mean[0] == pytest.approx(mean[1], abs=0.01)
        assert float(fusion.modality_bias.sum()) == pytest.approx(0, abs=1e-5)


def test_pooling_of_a_few_rows_stays_within_bounds() -> None:
    # The surer modality is always right, by so little that only T = 0 would tell the two apart.
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    right, wrong = (3.0 + 1e-3) * torch.eye(3)[labels], 3.0 * torch.eye(3)[(labels + 1) % 3]
    swapped = torch.tensor([True, False] * 3).unsqueeze(1)
    logits = torch.stack([right.where(swapped, wrong), wrong.where(swapped, right)], dim=1)
    fusion = fresh(classes=3)
    calibrate(fusion, EncodedRows(logits, torch.ones(6, 2, dtype=torch.bool), labels), "pooled")
    assert float(fusion.fusion_temperature) == pytest.approx(POOLED_TEMPERATURES[0])
    assert fusion.modality_bias.isfinite().all()


def test_subset_rows_have_at_least_the_subset() -> None:
    present = torch.tensor([[True, True, True], [True, False, False], [False, True, True]] * 200)
    counts = {subset: int(rows.sum()) for subset, rows, _ in subset_rows(("a", "b", "c"), present)}
    assert counts[("b",)] == counts[("b", "c")] == 400
    assert counts[("a", "b", "c")] == 200
