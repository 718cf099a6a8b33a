"""The choice of the fusion on validation, and the shares of interaction heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.adapter import Adapter
from train.calibration import EncodedRows, calibrate
from train.choice import DEFAULT_RULE, RULES, choose_fusion, halves, interaction_shares
from train.interaction import MIN_ROWS, any_informative, fit_shares

NAMES = ("a", "b")
DIM = 4
ROWS = 400


class Oracle(nn.Module):
    """A head that returns the first two features that it is given."""

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        return features[:, 0, :2]


def matching_pairs(skill: float, seed: int = 0) -> EncodedRows:
    """Return rows whose late features are noise, and whose own features know the label.

    Args:
        skill: How far the heads' logits favour the label.
        seed: Draws the rows.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (ROWS,), generator=generator)
    features = torch.randn(ROWS, 2, 2 * DIM, generator=generator)
    features[:, 0, DIM : DIM + 2] += skill * nn.functional.one_hot(labels, 2)
    present = torch.ones(ROWS, 2, dtype=torch.bool)
    present[: ROWS // 4, 1] = False
    return EncodedRows(features, present, labels)


def model_with_oracle() -> MultimodalModel:
    torch.manual_seed(0)
    model = MultimodalModel(NAMES, [Adapter(3, DIM, "linear") for _ in NAMES], DIM, 2)
    model.add_interaction(["linear", "mlp"])
    interaction = model.fusion.interaction
    assert interaction is not None
    interaction.heads["mlp"] = Oracle()
    return model.requires_grad_(False).eval()


class TestShares:
    def test_head_that_knows_more_takes_over_on_its_subset_only(self) -> None:
        model = model_with_oracle()
        rows = matching_pairs(skill=6.0)
        calibrate(model.fusion, rows, "certainty")
        fit_shares(model.fusion, rows)
        head, shares = interaction_shares(model.fusion, NAMES)
        assert head == "mlp"
        assert list(shares) == ["a+b"]
        assert shares["a+b"] > 0.8
        both = rows.select(rows.present.all(dim=1))
        probabilities, weights, _ = model.fusion(both.features, both.present)
        assert float((probabilities.argmax(dim=1) == both.labels).float().mean()) > 0.95
        assert float(weights.sum(dim=1).sub(1).abs().max()) < 1e-6

    def test_head_without_skill_has_no_share(self) -> None:
        model = model_with_oracle()
        rows = matching_pairs(skill=0.0)
        calibrate(model.fusion, rows, "certainty")
        late, *_ = model.fusion(rows.features, rows.present)
        fit_shares(model.fusion, rows)
        assert interaction_shares(model.fusion, NAMES) == (None, {})
        assert model.fusion(rows.features, rows.present)[0].allclose(late, atol=1e-6)

    def test_few_rows_give_no_share(self) -> None:
        model = model_with_oracle()
        few = matching_pairs(skill=6.0).select(torch.arange(ROWS - MIN_ROWS + 1, ROWS))
        choice = choose_fusion(model.fusion, NAMES, few, "average")
        assert (choice.head, choice.shares) == (None, {})

    def test_head_that_does_not_help_on_other_rows_takes_no_part(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Without the demand on the gain, a share is fitted to whatever the rows hold.
        monkeypatch.setattr("train.interaction.STANDARD_ERRORS", -100.0)
        model = model_with_oracle()
        choice = choose_fusion(model.fusion, NAMES, matching_pairs(skill=0.0), "average")
        late, mixed = choice.figures["average"]["nll"], choice.figures["interaction"]["nll"]
        assert (choice.head is None) == (mixed >= late)

    def test_new_fit_forgets_the_old_shares(self) -> None:
        model = model_with_oracle()
        for skill in (6.0, 0.0):
            rows = matching_pairs(skill)
            calibrate(model.fusion, rows, "certainty")
            fit_shares(model.fusion, rows)
        assert interaction_shares(model.fusion, NAMES) == (None, {})

    def test_mixture_is_calibrated(self) -> None:
        model = model_with_oracle()
        rows = matching_pairs(skill=2.0)
        calibrate(model.fusion, rows, "certainty")
        fit_shares(model.fusion, rows)
        fresh = matching_pairs(skill=2.0, seed=1)
        both = fresh.select(fresh.present.all(dim=1))
        probabilities, _, _ = model.fusion(both.features, both.present)
        confidence, answers = probabilities.max(dim=1)
        accuracy = float((answers == both.labels).float().mean())
        assert float(confidence.mean()) == pytest.approx(accuracy, abs=0.06)


class TestRule:
    def test_other_rule_is_chosen_where_it_is_better_beyond_noise(self) -> None:
        # The modality with the larger logits is the worse one, so a sum of logits misleads.
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 2, (4 * ROWS,), generator=generator)
        features = torch.zeros(len(labels), 2, 2)
        for slot, (scale, skill) in enumerate([(8.0, 0.7), (1.0, 0.9)]):
            right = torch.rand(len(labels), generator=generator) < skill
            said = torch.where(right, labels, 1 - labels)
            features[:, slot] = scale * nn.functional.one_hot(said, 2)
        model = MultimodalModel(NAMES, [Adapter(3, 2, "linear") for _ in NAMES], 2, 2)
        nn.init.eye_(model.fusion.classifier.weight)
        nn.init.zeros_(model.fusion.classifier.bias)
        model.requires_grad_(False)
        rows = EncodedRows(features, torch.ones(len(labels), 2, dtype=torch.bool), labels)
        choice = choose_fusion(model.fusion, NAMES, rows, None)
        assert choice.rule != DEFAULT_RULE
        assert choice.figures[choice.rule]["nll"] < choice.figures[DEFAULT_RULE]["nll"]

    def test_default_rule_stays_where_no_other_is_better(self) -> None:
        model = model_with_oracle()
        choice = choose_fusion(model.fusion, NAMES, matching_pairs(6.0), None)
        assert choice.rule == DEFAULT_RULE
        assert set(choice.figures) == {*RULES, "interaction"}
        late, mixed = (choice.figures[name] for name in (DEFAULT_RULE, "interaction"))
        assert mixed["nll"] < late["nll"] - 0.15
        assert mixed["accuracy"] > late["accuracy"]
        assert "mlp" in choice.summary()
        assert "a+b" in choice.summary()

    def test_given_rule_is_used_without_a_choice(self) -> None:
        model = model_with_oracle()
        choice = choose_fusion(model.fusion, NAMES, matching_pairs(0.0), "average")
        assert choice.rule == "average"
        assert set(choice.figures) == {"average", "interaction"}
        assert model.fusion.fusion_temperature > 1000


def test_halves_share_no_row_and_leave_none_out() -> None:
    (first, second), (third, fourth) = halves(7)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(7))
    assert (third.tolist(), fourth.tolist()) == (second.tolist(), first.tolist())


def test_modality_is_informative_if_it_beats_the_most_frequent_class() -> None:
    model = model_with_oracle()
    rows = matching_pairs(0.0)
    nn.init.eye_(model.fusion.classifier.weight)
    nn.init.zeros_(model.fusion.classifier.bias)
    assert not any_informative(model.fusion, rows)
    rows.features[:, 1, :2] += 6 * nn.functional.one_hot(rows.labels, 2)
    assert any_informative(model.fusion, rows)
