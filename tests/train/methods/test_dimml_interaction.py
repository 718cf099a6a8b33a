"""The interaction heads of the detached method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from tests.train.methods.conftest import WIDTH, widened
from train.calibration import EncodedRows
from train.methods.base import UNLABELLED

Make = Callable[..., Any]


def interaction_term(make: Make, rows: EncodedRows, **options: Any) -> Tensor:
    model, method = make("dimml", **options)
    torch.manual_seed(0)
    term: Tensor = method.objective(model, widened(model, rows), 0)["interaction"]
    return term


@pytest.mark.parametrize("joint", [False, True])
def test_gradient_reaches_the_encoder_only_if_it_is_joint(make: Make, joint: bool) -> None:
    model, method = make("dimml", gradient="joint" if joint else "detached")
    method.start_epoch(model)
    pooled = torch.randn(4, 5, requires_grad=True)
    features = model.encoders[0](pooled)
    features[:, WIDTH:].sum().backward()
    assert pooled.grad is not None
    assert bool(pooled.grad.any()) == joint
    assert model.branches[0].interaction.weight.grad.any()
    assert not model.branches[0].late.weight.grad.any()


def test_interaction_loss_has_no_gradient_in_the_late_features(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml")
    rows = widened(model, batch)
    leaf = rows.features.clone().requires_grad_()
    method.objective(model, rows._replace(features=leaf), 0)["interaction"].backward()
    assert leaf.grad is not None
    assert not leaf.grad[..., :WIDTH].any()
    assert leaf.grad[..., WIDTH:].any()


@pytest.mark.parametrize("interaction", ["linear", "mlp"])
def test_row_with_one_modality_or_without_label_takes_no_part(
    make: Make, batch: EncodedRows, interaction: str
) -> None:
    features, present, labels = batch
    alone = present.sum(dim=1) < 2
    assert alone.any()
    assert (
        interaction_term(
            make,
            EncodedRows(features[alone], present[alone], labels[alone]),
            interaction=interaction,
        ).item()
        == 0
    )
    hidden = torch.full_like(labels, UNLABELLED)
    rows = batch._replace(labels=hidden)
    assert interaction_term(make, rows, interaction=interaction).item() == 0


def test_head_of_the_paper_learns_from_complete_rows_and_trains_no_encoder(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml", interaction="paper")
    assert model.feature_dim == WIDTH
    leaf = batch.features.clone().requires_grad_()
    method.objective(model, batch._replace(features=leaf), 0)["interaction"].backward()
    assert leaf.grad is None or not leaf.grad.any()
    incomplete = batch.select(~batch.present.all(dim=1))
    assert interaction_term(make, incomplete, interaction="paper").item() == 0


def test_gradient_is_joint_while_no_modality_alone_beats_chance(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml")
    rows = widened(model, batch)
    classifier = model.fusion.classifier
    torch.nn.init.zeros_(classifier.weight)
    method.inspect_validation(model, rows)
    method.start_epoch(model)
    assert not any(branches.detached for branches in model.branches)
    torch.nn.init.eye_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    method.inspect_validation(model, rows)
    method.start_epoch(model)
    assert all(branches.detached for branches in model.branches)


@pytest.mark.parametrize("interaction", ["none", "paper"])
def test_joint_gradient_needs_a_head_with_features_of_its_own(make: Make, interaction: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="gradient: joint has no effect"):
        make("dimml", interaction=interaction, gradient="joint")


def test_one_modality_has_no_interaction(batch: EncodedRows) -> None:
    from dimml.nn.model import MultimodalModel
    from dimml.nn.pretrained.adapter import Adapter
    from train.methods import build_method
    from train.training_config import TrainingConfig

    model = MultimodalModel(["only"], [Adapter(5, WIDTH, "linear")], WIDTH, 4)
    build_method("dimml", {}, TrainingConfig(), model)
    assert model.fusion.interaction is None
    assert model.feature_dim == WIDTH
