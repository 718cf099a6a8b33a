"""Calibration on data whose true probabilities are known."""

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
    conformal,
    conformal_rows,
    subset_rows,
)

NAMES = ("audio", "image")
SUBSETS = list(subsets(NAMES))
CLASSES = 5
RULES: tuple[Rule, ...] = ("average", "certainty", "pooled")
DISTORTION = torch.tensor([3.0, 0.5])
"""What each modality's true logits are multiplied by: one over-confident, one too modest."""


def evidence(samples: int, seed: int, missing: float = 0.2) -> EncodedRows:
    """Rows whose features are distorted logits [N, 2, K].

    A modality sees the one-hot label times 1.5 in normal noise, so its true logits are 1.5 times
    what it sees, by Bayes' rule.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (samples,), generator=generator)
    seen = torch.randn(samples, len(NAMES), CLASSES, generator=generator)
    seen += 1.5 * torch.eye(CLASSES)[labels].unsqueeze(1)
    present = torch.rand(samples, len(NAMES), generator=generator) >= missing
    return EncodedRows(1.5 * seen * DISTORTION.unsqueeze(-1), present, labels)


def fresh(classes: int = CLASSES, modalities: int = len(NAMES)) -> CertaintyFusion:
    """A fusion whose classifier returns the features as logits."""
    fusion = CertaintyFusion(classes, classes, modalities)
    with torch.no_grad():
        fusion.classifier.weight.copy_(torch.eye(classes))
        fusion.classifier.bias.zero_()
    return fusion


def mask_of(subset: tuple[str, ...]) -> Tensor:
    return torch.tensor([name in subset for name in NAMES])


@torch.no_grad()
def answers(fusion: CertaintyFusion, logits: Tensor, subset: tuple[str, ...]) -> Tensor:
    """Probabilities [N, K] from a subset."""
    probabilities: Tensor = fusion(logits, mask_of(subset).expand(len(logits), -1))[0]
    return probabilities


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    confidence, said = (part.numpy() for part in probabilities.max(dim=1))
    bins = np.minimum((confidence * 15).astype(int), 14)
    right = said == labels.numpy()
    return sum(
        abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )


@pytest.fixture(scope="module")
def calibrated() -> CertaintyFusion:
    fusion = fresh()
    calibrate(fusion, NAMES, evidence(4000, seed=0), "certainty")
    return fusion


class TestTemperatures:
    def test_recover_a_known_distortion(self, calibrated: CertaintyFusion) -> None:
        assert calibrated.modality_temperature.tolist() == pytest.approx([3.0, 0.5], rel=0.1)

    def test_of_a_modality_ignore_the_rows_that_lack_it(self) -> None:
        logits, present, labels = evidence(1000, seed=0)
        clean, dirty = fresh(), fresh()
        calibrate(clean, NAMES, EncodedRows(logits, present, labels), "certainty")
        junk = torch.where(present.unsqueeze(-1), logits, torch.tensor(1e3))
        calibrate(dirty, NAMES, EncodedRows(junk, present, labels), "certainty")
        for ours, theirs in zip(clean.buffers(), dirty.buffers(), strict=True):
            assert ours.equal(theirs)

    def test_of_what_no_row_has_stay_one(self) -> None:
        logits, present, labels = evidence(500, seed=0)
        present[:, 1] = False
        fusion = fresh()
        calibrate(fusion, NAMES, EncodedRows(logits, present, labels), "certainty")
        assert fusion.modality_temperature[0] == pytest.approx(3.0, rel=0.2)
        assert fusion.modality_temperature[1] == 1
        assert fusion.subset_temperature.tolist() == [1, 1, 1, 1]

    @pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
    def test_make_the_calibration_error_fall(
        self, calibrated: CertaintyFusion, subset: tuple[str, ...]
    ) -> None:
        logits, _, labels = evidence(4000, seed=1)
        before = calibration_error(answers(fresh(), logits, subset), labels)
        after = calibration_error(answers(calibrated, logits, subset), labels)
        assert after < 0.025
        assert before > 3 * after

    @pytest.mark.parametrize("name", NAMES)
    def test_never_change_which_label_a_single_modality_says(
        self, calibrated: CertaintyFusion, name: str
    ) -> None:
        logits, _, _ = evidence(2000, seed=2)
        before, after = (answers(fusion, logits, (name,)) for fusion in (fresh(), calibrated))
        assert after.argmax(dim=1).equal(before.argmax(dim=1))
        assert not torch.allclose(before, after, atol=0.05)

    def test_let_two_modalities_answer_better_than_either(
        self, calibrated: CertaintyFusion
    ) -> None:
        logits, _, labels = evidence(4000, seed=3)
        nll = {
            subset_name(subset): float(
                torch.nn.functional.nll_loss(answers(calibrated, logits, subset).log(), labels)
            )
            for subset in SUBSETS
        }
        assert nll["audio+image"] < 0.8 * min(nll["audio"], nll["image"])


class TestConformal:
    @pytest.mark.parametrize("coverage", [0.7, 0.9])
    def test_sets_hold_the_truth_as_often_as_asked_for(
        self, calibrated: CertaintyFusion, coverage: float
    ) -> None:
        fitted = conformal(calibrated, NAMES, evidence(4000, seed=4), coverage)
        logits, _, labels = evidence(4000, seed=5)
        assert fitted.coverage == coverage
        for subset in SUBSETS:
            truth = answers(calibrated, logits, subset)[torch.arange(len(labels)), labels]
            held = (truth >= 1 - fitted.thresholds[subset_name(subset)]).float().mean()
            assert float(held) == pytest.approx(coverage, abs=0.025)

    def test_few_rows_still_cover_on_average(self, calibrated: CertaintyFusion) -> None:
        logits, present, labels = evidence(20 * 300, seed=6, missing=0)
        held = []
        new, _, new_labels = evidence(1000, seed=7)
        truth = answers(calibrated, new, ("audio",))[torch.arange(1000), new_labels]
        for rows in torch.arange(len(labels)).split(20):
            some = EncodedRows(logits[rows], present[rows], labels[rows])
            fitted = conformal(calibrated, NAMES, some, 0.9)
            held.append(float((truth >= 1 - fitted.thresholds["audio"]).float().mean()))
        # The 19th of 20 scores: 19 / 21 in expectation, where the 18th would give 0.857.
        assert np.mean(held) == pytest.approx(19 / 21, abs=0.02)

    @pytest.mark.parametrize(("rows", "subsets_with"), [(9, {"audio", "image"}), (8, {"image"})])
    def test_a_subset_with_too_few_rows_has_no_threshold(
        self, calibrated: CertaintyFusion, rows: int, subsets_with: set[str]
    ) -> None:
        logits, present, labels = evidence(40, seed=8)
        present[:, 0] = torch.arange(40) < rows
        present[:, 1] = torch.arange(40) >= rows
        fitted = conformal(calibrated, NAMES, EncodedRows(logits, present, labels), 0.9)
        assert set(fitted.thresholds) == subsets_with


class TestConformalRows:
    @pytest.mark.parametrize("count", [1, 2, 3, 100, 101])
    def test_are_a_third_and_always_the_same(self, count: int) -> None:
        rows = conformal_rows(count)
        assert rows.dtype == torch.bool
        assert rows.shape == (count,)
        assert int(rows.sum()) == -(-count // 3)
        assert rows.equal(conformal_rows(count))

    @pytest.mark.parametrize("classes", [2, 3, 6, 9])
    def test_hold_their_share_of_labels_listed_in_turn(self, classes: int) -> None:
        labels = torch.arange(900) % classes
        shares = conformal_rows(900).float()
        by_class = [float(shares[labels == label].mean()) for label in range(classes)]
        assert by_class == pytest.approx([1 / 3] * classes, abs=0.15)


class TestRules:
    @pytest.mark.parametrize("rule", ["average", "certainty", "pooled"])
    def test_calibrate_all_but_the_source_s(self, rule: Rule) -> None:
        fusion = fresh()
        calibrate(fusion, NAMES, evidence(2000, seed=0), rule)
        assert fusion.modality_temperature.tolist() == pytest.approx([3.0, 0.5], rel=0.15)
        assert fusion.subset_temperature[3] != 1

    def test_the_source_s_leaves_logits_as_they_are(self) -> None:
        fusion = fresh()
        calibrate(fusion, NAMES, evidence(500, seed=0), "paper")
        assert fusion.modality_temperature.tolist() == [1, 1]
        assert fusion.subset_temperature.tolist() == [1, 1, 1, 1]
        assert fusion.fusion_temperature.item() in (1, 3)

    def test_pooling_learns_which_modality_repeats_what_another_says(self) -> None:
        """Two copies of one modality beside an independent one: each copy should count half."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 3, (4000,), generator=generator)
        noise = torch.randn(4000, 2, 3, generator=generator)
        one, other = (torch.eye(3)[labels] + noise[:, i] for i in (0, 1))
        logits = torch.stack([one, one, other], dim=1)
        present = torch.ones(4000, 3, dtype=torch.bool)
        names = ("one", "copy", "other")
        likelihood = {}
        for rule in RULES:
            fusion = fresh(classes=3, modalities=3)
            rows = EncodedRows(logits[:2000], present[:2000], labels[:2000])
            calibrate(fusion, names, rows, rule)
            scaled = logits[2000:] / fusion.modality_temperature.unsqueeze(-1)
            probabilities, weights = fusion.fuse(scaled, present[2000:])
            likelihood[rule] = float(probabilities[torch.arange(2000), labels[2000:]].log().mean())
        assert likelihood["pooled"] > likelihood["average"]
        assert likelihood["pooled"] > likelihood["certainty"]
        mean = weights.mean(dim=0).tolist()
        assert mean[2] > 1.2 * mean[0]
        assert mean[0] == pytest.approx(mean[1], abs=0.01)
        assert float(fusion.modality_bias.sum()) == pytest.approx(0, abs=1e-5)


def test_pooling_a_few_rows_stays_within_its_bounds() -> None:
    # Six rows that would be told best by a temperature below the bound.
    fusion = fresh()
    calibrate(fusion, NAMES, evidence(6, 108, missing=0.0), "pooled")
    assert float(fusion.fusion_temperature) == pytest.approx(POOLED_TEMPERATURES[0])
    assert fusion.modality_bias.isfinite().all()


def test_rows_of_a_subset_have_at_least_it() -> None:
    present = torch.tensor([[True, True, True], [True, False, False], [False, True, True]] * 200)
    found = {subset: int(rows.sum()) for subset, rows, _ in subset_rows(("a", "b", "c"), present)}
    assert found[("b",)] == found[("b", "c")] == 400
    assert found[("a", "b", "c")] == 200
