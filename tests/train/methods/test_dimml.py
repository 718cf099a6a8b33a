from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from train.calibration import EncodedRows
from train.methods.base import UNLABELLED
from train.methods.dimml import both_heads

Make = Callable[..., Any]


def terms(make: Make, batch: EncodedRows, epoch: int, **options: Any) -> dict[str, Tensor]:
    model, method = make("dimml", **{"interaction": "none", **options})
    model.effective[0] = True
    result: dict[str, Tensor] = method.objective(model, batch, epoch)
    return result


def test_duc_loss_takes_part_after_the_warm_up(make: Make, batch: EncodedRows) -> None:
    assert list(terms(make, batch, epoch=1)) == ["isolated", "shared"]
    assert list(terms(make, batch, epoch=2)) == ["isolated", "shared", "duc"]


def test_switch_removes_a_term_of_the_loss(make: Make, batch: EncodedRows) -> None:
    assert list(terms(make, batch, epoch=2, duc=False)) == ["isolated", "shared"]
    assert list(terms(make, batch, epoch=2, shared=False)) == ["isolated", "duc"]


@pytest.mark.parametrize("shared", [True, False])
def test_only_the_duc_loss_couples_encoders(make: Make, batch: EncodedRows, shared: bool) -> None:
    model, method = make("dimml", shared=shared, interaction="none")
    features, present, labels = batch
    only_audio = present & torch.tensor([True, False, False])
    leaf = features.clone().requires_grad_()
    result = method.objective(model, EncodedRows(leaf, only_audio, labels), 0)
    torch.stack(list(result.values())).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[only_audio].any()
    assert not leaf.grad[:, 1:].any()


@pytest.mark.parametrize("shared", [True, False])
def test_unlabelled_row_takes_part_only_in_the_duc_loss(
    make: Make, batch: EncodedRows, shared: bool
) -> None:
    model, method = make("dimml", shared=shared, interaction="none")
    model.effective[0] = True
    features, present, labels = batch
    hidden = labels.masked_fill(torch.arange(len(labels)) % 2 == 0, UNLABELLED)
    labelled = hidden != UNLABELLED

    def gradients(epoch: int) -> tuple[dict[str, Tensor], Tensor]:
        leaf = features.clone().requires_grad_()
        result = method.objective(model, EncodedRows(leaf, present, hidden), epoch)
        torch.stack(list(result.values())).sum().backward()
        assert leaf.grad is not None
        return result, leaf.grad

    result, before = gradients(epoch=0)
    assert not before[~labelled].any()
    alone = method.objective(
        model, EncodedRows(features[labelled], present[labelled], labels[labelled]), 0
    )
    assert all(result[name].isclose(value) for name, value in alone.items())
    _, after = gradients(epoch=2)
    pairs = ~labelled & present[:, 0] & present[:, 1]
    assert after[pairs, 1].any()
    # The teacher of a pair gets no gradient.
    assert not after[~labelled, 0].any()


def test_unlabelled_rows_are_used_only_with_the_duc_loss(make: Make) -> None:
    used = [make("dimml", duc=duc)[1].uses_unlabelled(epochs=3) for duc in (True, False)]
    assert used == [True, False]
    assert not make("dimml")[1].uses_unlabelled(epochs=2)
    assert not make("ume")[1].uses_unlabelled(epochs=3)


def test_each_modality_has_a_classifier_without_the_shared_one(make: Make) -> None:
    model, _ = make("dimml", shared=False, interaction="none")
    one = torch.randn(1, 1, model.fusion.feature_dim).expand(1, 3, -1)
    logits = model.fusion.classifier(one)
    assert not logits[:, 0].allclose(logits[:, 1])


def test_best_unimodal_weights_only_the_best_present_modality(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml", interaction="none")
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


def test_ablation_rows_change_one_thing_each_and_not_the_model(
    make: Make, batch: EncodedRows
) -> None:
    model, method = make("dimml", interaction="none", fusion="certainty")
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
    same = [name for name, result in answers.items() if result.equal(expected)]
    assert same == ["dimml+certainty"]


def test_both_heads_return_the_mean_of_their_logits(make: Make, batch: EncodedRows) -> None:
    model, _ = make("dimml", interaction="none")
    features = batch[0].nan_to_num()
    result = both_heads(model)(features)
    shared = model.fusion.classifier(features)
    for slot, head in enumerate(model.private_heads):
        assert result[:, slot].allclose((shared[:, slot] + head(features[:, slot])) / 2, atol=1e-5)
