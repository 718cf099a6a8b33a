"""`dimml.nn.interaction`: what modalities tell together, and its share of an answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from dimml.nn.fusion import CertaintyFusion
from dimml.nn.interaction import Interaction, InteractionHead, add_branch, remove_branch
from dimml.nn.masks import subset_index
from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.adapter import Adapter

NAMES = ("audio", "image", "text")
DIM, CLASSES = 4, 3
SUBSETS = 2 ** len(NAMES)


def model_with(*heads: Any) -> MultimodalModel:
    torch.manual_seed(0)
    encoders = [Adapter(5, DIM, "linear") for _ in NAMES]
    model = MultimodalModel(NAMES, encoders, DIM, CLASSES)
    model.add_interaction(heads)
    return model.eval()


def set_shares(fusion: CertaintyFusion, share: float) -> Interaction:
    """Give the first head a share in every subset of two or more modalities."""
    interaction = fusion.interaction
    assert interaction is not None
    shares = torch.zeros_like(interaction.share)
    shares[0] = share
    shares[:, [0, 1, 2, 4]] = 0
    temperature = torch.full_like(interaction.head_temperature, 2.0)
    mixture = torch.where(shares[0] > 0, 0.5, 1.0)
    interaction.set_shares(shares, temperature, mixture)
    return interaction


def random_rows(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of every non-empty subset, NaN where absent, and the mask."""
    numbers = torch.arange(1, SUBSETS)
    present = (numbers.unsqueeze(1) >> torch.arange(len(NAMES))) % 2 == 1
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(present), len(NAMES), 2 * DIM, generator=generator)
    return features.masked_fill(~present.unsqueeze(-1), float("nan")), present


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_answer_is_the_pool_of_the_late_answer_and_the_head(name: str) -> None:
    fusion = model_with(name).fusion
    features, present = random_rows()
    interaction = fusion.interaction
    late, late_weights, _ = fusion(features, present)
    set_shares(fusion, 0.3)
    probabilities, weights, _ = fusion(features, present)
    for row, mask in enumerate(present):
        if mask.sum() == 1:
            assert probabilities[row].allclose(late[row], atol=1e-6)
            assert weights[row].equal(late_weights[row])
            continue
        own = features[row, :, DIM:].nan_to_num() * mask.unsqueeze(-1)
        inputs = torch.cat([own, mask.unsqueeze(-1).float()], dim=-1).flatten()
        if name == "mlp":
            products = sum(own[i] * own[j] for i, j in itertools.combinations(range(3), 2))
            inputs = torch.cat([inputs, products])
        joint = interaction.heads[name].layers(inputs) / 2
        pooled = 0.7 * late[row].log() + 0.3 * joint.log_softmax(dim=0)
        assert probabilities[row].allclose((pooled / 0.5).softmax(dim=0), atol=1e-5)
        expected = 0.7 * late_weights[row] + 0.3 * mask / mask.sum()
        assert weights[row].allclose(expected, atol=1e-6)


def test_content_of_absent_slots_does_not_reach_the_answer() -> None:
    fusion = model_with("mlp").fusion
    set_shares(fusion, 1.0)
    features, present = random_rows()
    for one, two in zip(
        fusion(features, present), fusion(features.nan_to_num(nan=9.0), present), strict=True
    ):
        assert one.isfinite().all()
        assert one.equal(two)


def test_late_answer_does_not_read_the_features_of_the_heads() -> None:
    fusion = model_with("linear", "mlp").fusion
    features, present = random_rows()
    changed = features.clone()
    changed[..., DIM:] += 1
    late, *_ = fusion(features, present)
    assert fusion(changed, present)[0].equal(late)
    set_shares(fusion, 0.5)
    assert not fusion(changed, present)[0].allclose(fusion(features, present)[0])


def test_answer_does_not_depend_on_the_rest_of_the_batch() -> None:
    fusion = model_with("mlp").fusion
    set_shares(fusion, 0.6)
    features, present = random_rows()
    together = fusion(features, present)[0]
    for row in range(len(present)):
        alone = fusion(features[row : row + 1], present[row : row + 1])[0]
        assert alone.allclose(together[row : row + 1], atol=1e-6)


def test_kept_head_answers_as_before() -> None:
    model = model_with("linear", "mlp")
    interaction = set_shares(model.fusion, 0.0)
    shares = torch.zeros_like(interaction.share)
    shares[1, 3] = 0.4
    interaction.set_shares(shares, torch.full_like(shares, 3.0), torch.ones(SUBSETS))
    features, present = random_rows()
    before = model.fusion(features, present)[0]
    model.keep_head("mlp")
    assert list(interaction.heads) == ["mlp"]
    assert model.fusion(features, present)[0].allclose(before, atol=1e-6)


def test_model_without_kept_head_is_as_one_that_never_had_any() -> None:
    model = model_with("linear", "mlp")
    inputs = torch.randn(2, 5)
    late = model.encoders[0](inputs)[:, :DIM]
    model.keep_head(None)
    assert model.feature_dim == DIM
    assert model.encoders[0](inputs).equal(late)
    plain = MultimodalModel(NAMES, [Adapter(5, DIM, "linear") for _ in NAMES], DIM, CLASSES)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda share, *_: share.fill_(0.1), "one-modality"),
        (lambda share, *_: share[:, 7].fill_(0.8), "sum to at most 1"),
        (lambda share, *_: share[0, 7].fill_(-0.1), "0 .. 1"),
        (lambda _, temperature, __: temperature.fill_(0), "positive"),
        (lambda _, __, mixture: mixture.fill_(float("nan")), "positive"),
        (lambda _, __, mixture: mixture[7:].fill_(2), "without a share"),
        (lambda share, *_: share.resize_(1, 8), "shape"),
    ],
)
def test_invalid_shares_are_rejected_and_change_nothing(change: Any, message: str) -> None:
    interaction = set_shares(model_with("linear", "mlp").fusion, 0.2)
    before = {name: value.clone() for name, value in interaction.named_buffers()}
    values = [torch.zeros(2, SUBSETS), torch.ones(2, SUBSETS), torch.ones(SUBSETS)]
    change(*values)
    with pytest.raises(ValueError, match=message):
        interaction.set_shares(*values)
    assert all(value.equal(before[name]) for name, value in interaction.named_buffers())


def test_branch_is_added_to_every_kind_of_head_and_removed() -> None:
    from dimml.nn.encoders import ImageEncoder

    pooled = torch.randn(3, 5)
    for head in (nn.Linear(5, DIM), Adapter(5, DIM, "linear"), Adapter(5, DIM, "mlp")):
        encoder = ImageEncoder(nn.Flatten(), head.eval())
        pixels = pooled.view(3, 1, 1, 5)
        before = encoder(pixels)
        branches = add_branch(encoder, DIM)
        assert encoder(pixels)[:, :DIM].equal(before)
        assert encoder(pixels).shape == (3, 2 * DIM)
        assert branches.interaction.in_features == 5
        remove_branch(encoder)
        assert encoder(pixels).equal(before)


def test_subset_index_numbers_the_shares() -> None:
    fusion = model_with("linear").fusion
    interaction = fusion.interaction
    assert interaction is not None
    mask = torch.tensor([[True, False, True]])
    shares = torch.zeros(1, SUBSETS)
    shares[0, subset_index(mask)] = 1.0
    interaction.set_shares(shares, torch.ones(1, SUBSETS), torch.ones(SUBSETS))
    features, present = random_rows()
    _, weights, _ = fusion(features, present)
    [row] = (present == mask).all(dim=1).nonzero().flatten().tolist()
    assert weights[row].tolist() == [0.5, 0.0, 0.5]


def test_head_of_the_paper_reads_the_late_features() -> None:
    head = InteractionHead("paper", len(NAMES), DIM, CLASSES)
    interaction = Interaction([head], len(NAMES), DIM).eval()
    features, present = random_rows()
    logits = interaction(features[..., :DIM], present)
    assert logits[:, 0].equal(head(features[..., :DIM], present))
