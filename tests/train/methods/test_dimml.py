from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from train.calibration import EncodedRows
from train.methods.base import UNLABELLED
from train.methods.dimml import both_heads, train_head

Make = Callable[..., Any]


def terms(make: Make, batch: EncodedRows, epoch: int, **options: bool) -> dict[str, Tensor]:
    model, method = make("dimml", **options)
    model.effective[0] = True
    found: dict[str, Tensor] = method.objective(model, batch, epoch)
    return found


def test_the_duc_loss_joins_after_the_warm_up(make: Make, batch: EncodedRows) -> None:
    assert list(terms(make, batch, epoch=1)) == ["isolated", "shared"]
    assert list(terms(make, batch, epoch=2)) == ["isolated", "shared", "duc"]


def test_the_switches_leave_a_term_out(make: Make, batch: EncodedRows) -> None:
    assert list(terms(make, batch, epoch=2, duc=False)) == ["isolated", "shared"]
    assert list(terms(make, batch, epoch=2, shared=False)) == ["isolated", "duc"]


@pytest.mark.parametrize("shared", [True, False])
def test_no_loss_but_duc_reaches_two_encoders(make: Make, batch: EncodedRows, shared: bool) -> None:
    model, method = make("dimml", shared=shared)
    features, present, labels = batch
    only_audio = present & torch.tensor([True, False, False])
    leaf = features.clone().requires_grad_()
    found = method.objective(model, EncodedRows(leaf, only_audio, labels), 0)
    torch.stack(list(found.values())).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[only_audio].any()
    assert not leaf.grad[:, 1:].any()


@pytest.mark.parametrize("shared", [True, False])
def test_a_row_without_a_label_teaches_by_the_duc_loss_alone(
    make: Make, batch: EncodedRows, shared: bool
) -> None:
    model, method = make("dimml", shared=shared)
    model.effective[0] = True
    features, present, labels = batch
    hidden = labels.masked_fill(torch.arange(len(labels)) % 2 == 0, UNLABELLED)
    known = hidden != UNLABELLED

    def gradients(epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        leaf = features.clone().requires_grad_()
        found = method.objective(model, EncodedRows(leaf, present, hidden), epoch)
        torch.stack(list(found.values())).sum().backward()
        assert leaf.grad is not None
        return found, leaf.grad

    found, before = gradients(epoch=0)
    assert not before[~known].any()
    alone = method.objective(model, EncodedRows(features[known], present[known], labels[known]), 0)
    assert all(found[name].isclose(value) for name, value in alone.items())
    _, after = gradients(epoch=2)
    pairs = ~known & present[:, 0] & present[:, 1]
    assert after[pairs, 1].any()
    # The teacher learns nothing.
    assert not after[~known, 0].any()


def test_without_the_duc_loss_no_row_without_a_label_is_used(make: Make) -> None:
    used = [make("dimml", duc=duc)[1].uses_unlabelled(epochs=3) for duc in (True, False)]
    assert used == [True, False]
    assert not make("dimml")[1].uses_unlabelled(epochs=2)
    assert not make("ume")[1].uses_unlabelled(epochs=3)


def test_without_the_shared_classifier_each_modality_has_its_own(make: Make) -> None:
    model, _ = make("dimml", shared=False)
    one = torch.randn(1, 1, model.feature_dim).expand(1, 3, -1)
    logits = model.fusion.classifier(one)
    assert not logits[:, 0].allclose(logits[:, 1])


def test_the_fusion_head_answers_only_where_everything_is_present(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml", fusion_head=True)
    features, present, labels = batch
    clean = features.nan_to_num()
    before = [parameter.clone() for parameter in model.parameters()]
    method.finish(model, EncodedRows(clean, present, labels))
    assert all(p.equal(b) for p, b in zip(model.parameters(), before, strict=True))
    readout = method.readout(model)
    readout.calibrate(method.modalities, batch)
    two = torch.tensor([[True, True, False]]).expand(len(labels), -1)
    answers = []
    for _ in range(2):
        answers.append([readout(clean, mask)[0] for mask in (two, torch.ones_like(two))])
        torch.nn.init.normal_(method.fusion_head.weight)
    assert answers[0][0].equal(answers[1][0])
    assert not answers[0][1].allclose(answers[1][1])


def test_the_best_unimodal_row_gives_all_weight_to_the_best_that_is_present(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml")
    features, present, labels = batch
    torch.nn.init.eye_(model.fusion.classifier.weight)
    torch.nn.init.zeros_(model.fusion.classifier.bias)
    skilled = features.clone()
    skilled[:, 1, :4] += 9 * torch.eye(4)[labels]
    skilled[:, 0, :4] -= 9 * torch.eye(4)[labels]
    readout = method.references(model, lambda: batch)["best-unimodal"]
    readout.calibrate(method.modalities, EncodedRows(skilled, present, labels))
    _, weights = readout(skilled, present)
    assert weights is not None
    assert weights.argmax(dim=1)[present[:, 1]].unique().tolist() == [1]
    audio_and_text = present & torch.tensor([True, False, True])
    rows = audio_and_text[:, 0] & audio_and_text[:, 2]
    _, weights = readout(skilled[rows], audio_and_text[rows])
    assert weights is not None
    assert weights.argmax(dim=1).unique().tolist() == [2]


def test_rows_of_the_ablation_change_one_thing_each_and_not_the_model(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rows = method.references(model, lambda: batch)
    answers = {}
    for name, readout in rows.items():
        readout.calibrate(method.modalities, batch)
        answers[name] = readout(*batch[:2])[0]
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    own = method.readout(model)
    own.calibrate(method.modalities, batch)
    expected = own(*batch[:2])[0]
    same = [name for name, found in answers.items() if found.equal(expected)]
    assert same == [f"dimml+{method.options.fusion}"]


def test_both_heads_answer_with_the_mean_of_their_logits(make: Make, batch: EncodedRows) -> None:
    model, _ = make("dimml")
    features = batch[0].nan_to_num()
    found = both_heads(model)(features)
    shared = model.fusion.classifier(features)
    for slot, head in enumerate(model.private_heads):
        assert found[:, slot].allclose((shared[:, slot] + head(features[:, slot])) / 2, atol=1e-5)


def test_the_head_trained_with_modalities_left_out_answers_without_them(
    batch: EncodedRows,
) -> None:
    features, present, labels = batch
    accuracy = {}
    for dropout in (0.0, 0.5):
        head = torch.nn.Linear(features[0].numel(), 4)
        torch.nn.init.zeros_(head.weight)
        train_head(head, batch, dropout)
        alone = torch.zeros_like(features)
        alone[:, 0] = features[:, 0].nan_to_num()
        said = head(alone.flatten(1)).argmax(dim=1)[present[:, 0]]
        accuracy[dropout] = float((said == labels[present[:, 0]]).float().mean())
    assert accuracy[0.5] > 0.5
