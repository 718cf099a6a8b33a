from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from train.calibration import EncodedRows
from train.methods.mla import entropy_weights, other_means, projected_step

Make = Callable[..., Any]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_turn_changes_nothing_of_what_the_head_says_of_the_others(
    make: Make, batch: EncodedRows, optimizer: Any
) -> None:
    model, _ = make("mla")
    features, present, labels = batch
    clean, head = features.nan_to_num(), model.fusion.classifier
    means = other_means(clean, present, 0)
    before = head(means[:-1].T), head(clean[:, 0])
    functional.cross_entropy(head(clean[present[:, 0], 0]), labels[present[:, 0]]).backward()
    projected_step(head, means, optimizer(head.parameters(), 0.1))
    assert means.shape == (model.feature_dim + 1, 2)
    assert head(means[:-1].T).allclose(before[0], atol=1e-4)
    assert not head(clean[:, 0]).allclose(before[1], atol=1e-2)


def test_alone_in_a_batch_a_modality_takes_the_plain_step(make: Make, batch: EncodedRows) -> None:
    features, present, labels = batch
    alone = present & torch.tensor([True, False, False])
    heads = []
    for projects in (True, False):
        model, _ = make("mla")
        head, clean = model.fusion.classifier, features.nan_to_num()
        optimizer = torch.optim.SGD(head.parameters(), 0.1)
        functional.cross_entropy(head(clean[alone[:, 0], 0]), labels[alone[:, 0]]).backward()
        if projects:
            projected_step(head, other_means(clean, alone, 0), optimizer)
        else:
            optimizer.step()
        heads.append(head.weight)
    assert heads[0].allclose(heads[1])


def test_each_encoder_is_left_the_gradient_of_its_turn(make: Make, batch: EncodedRows) -> None:
    model, method = make("mla")
    features, present, labels = batch
    leaf = features.clone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    untouched = model.fusion.classifier.weight.detach().clone()
    terms = method.alternate(model, EncodedRows(leaf, present, labels), optimizer)
    assert list(terms) == ["audio", "image", "text"]
    assert not model.fusion.classifier.weight.equal(untouched)
    assert model.fusion.classifier.weight.grad is None
    # The first turn is with the head as it was.
    again = features[:, 0].nan_to_num().requires_grad_()
    rows = present[:, 0]
    first = functional.linear(again, untouched, make("mla")[0].fusion.classifier.bias)
    functional.cross_entropy(first[rows], labels[rows]).backward()
    assert leaf.grad is not None
    assert again.grad is not None
    assert leaf.grad[:, 0].allclose(again.grad, atol=1e-6)


def test_who_is_sure_weighs_more() -> None:
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    present = torch.tensor([[True, True, False]])
    weights = entropy_weights(logits, present)
    sure = -float((logits[0, 0].softmax(0) * logits[0, 0].log_softmax(0)).sum())
    assert weights[0, 2] == 0
    assert float(weights[0, 0] / weights[0, 1]) == pytest.approx(math.exp(math.log(3) - sure))
