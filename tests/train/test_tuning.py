"""Which weights of a pretrained encoder are trained, how fast, and with which noise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from dimml.errors import RecipeError
from dimml.modalities import KINDS
from dimml.nn.encoders import join_encoder
from dimml.nn.model import MultimodalModel
from dimml.nn.pretrained.adapter import Adapter
from dimml.nn.pretrained.backbone import Backbone
from tests.pretrained_folders import write_folder
from tests.train.pretrained.refusals import read
from train.encoder_config import EncoderConfig
from train.pretrained import PretrainedModel
from train.pretrained.tuning import merge_lora, parameter_groups, prepare_tuning
from train.recipe import Recipe

THREE_BLOCKS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("text", {"num_hidden_layers": 3}),
    "vit": ("image", {"num_hidden_layers": 3}),
    "whisper": ("audio", {"encoder_layers": 3}),
    "wav2vec2": ("audio", {"num_hidden_layers": 3}),
    "deberta-v2": ("text", {"num_hidden_layers": 3}),
    "resnet": ("image", {"hidden_sizes": [16, 24, 40], "depths": [1, 1, 1]}),
}
LAST_2 = {
    "bert": r"encoder\.layer\.[12]\.|pooler\.",
    "vit": r"layers\.[12]\.|layernorm\.|pooler\.",
    "whisper": r"layers\.[12]\.|layer_norm\.",
    "wav2vec2": r"encoder\.layers\.[12]\.",
    "deberta-v2": r"encoder\.layer\.[12]\.|encoder\.LayerNorm\.",
    "resnet": r"encoder\.stages\.[12]\.",
}
MODELS = list(THREE_BLOCKS)
WITH_LINEAR_LAYERS = [name for name in MODELS if name != "resnet"]
LINEAR = re.compile(r".*\.lora_[AB]\.default\.weight")

Models = Callable[[str], PretrainedModel]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return a function that writes a miniature of three blocks once, and reads its folder."""
    parent = tmp_path_factory.mktemp("three_blocks")

    def written(name: str) -> PretrainedModel:
        kind, changes = THREE_BLOCKS[name]
        folder = parent / name
        if not folder.exists():
            write_folder(folder, kind, name)
            config = transformers.AutoConfig.from_pretrained(folder)
            config.update(changes)
            torch.manual_seed(0)
            transformers.AutoModel.from_config(config).save_pretrained(folder)
        preprocessing = {"seconds": 1.0} if name == "whisper" else {}
        return read(folder, kind, preprocessing=preprocessing)

    return written


def config(tune: str, **settings: Any) -> EncoderConfig:
    return EncoderConfig.model_validate({"pretrained": "a", "tune": tune, **settings})


def trained(backbone: Backbone) -> list[str]:
    return [name for name, weight in backbone.model.named_parameters() if weight.requires_grad]


def example(model: PretrainedModel) -> tuple[Any, list[Tensor]]:
    """Return the kind of a model, and its inputs for one value."""
    name = model.settings.kind
    kind = KINDS[name]("input", dict(model.preprocessing), model.assets)
    value: Any = "it was red: two"
    if name == "image":
        value = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    if name == "audio":
        value = np.random.default_rng(0).standard_normal(12_000).astype(np.float32)
    inputs = kind.collate([kind.preprocess(kind.decode(value))])
    return kind, [torch.from_numpy(inputs[key]) for key in kind.input_names]


def joined(model: PretrainedModel, backbone: Backbone) -> MultimodalModel:
    encoder = join_encoder(example(model)[0], backbone, Adapter(backbone.width, 8, "linear"))
    return MultimodalModel(["input"], [encoder], 8, 2)


class TestTrainedWeights:
    @pytest.mark.parametrize("name", MODELS)
    def test_frozen_model_trains_nothing(self, models: Models, name: str) -> None:
        backbone = models(name).load()
        prepare_tuning(backbone, config("frozen"))
        assert trained(backbone) == []

    @pytest.mark.parametrize("name", MODELS)
    def test_last_2_trains_two_blocks_and_what_follows(self, models: Models, name: str) -> None:
        backbone = models(name).load()
        prepare_tuning(backbone, config("last_2"))
        names = [n for n, _ in backbone.model.named_parameters()]
        assert trained(backbone) == [n for n in names if re.match(LAST_2[name], n)]
        assert 0 < len(trained(backbone)) < len(names)

    @pytest.mark.parametrize("name", MODELS)
    def test_full_trains_everything(self, models: Models, name: str) -> None:
        backbone = models(name).load()
        prepare_tuning(backbone, config("full"))
        assert trained(backbone) == [n for n, _ in backbone.model.named_parameters()]

    @pytest.mark.parametrize("name", WITH_LINEAR_LAYERS)
    def test_lora_trains_two_matrices_for_each_linear_layer(
        self, models: Models, name: str
    ) -> None:
        backbone = models(name).load()
        count = sum(isinstance(module, nn.Linear) for module in backbone.model.modules())
        prepare_tuning(backbone, config("lora", lora_rank=3))
        updates = trained(backbone)
        assert all(LINEAR.fullmatch(n) for n in updates)
        assert len(updates) == 2 * count > 0
        weights = dict(backbone.model.named_parameters())
        assert {min(weights[n].shape) for n in updates} == {3}

    def test_lora_without_linear_layers_is_refused(self, models: Models) -> None:
        with pytest.raises(
            RecipeError, match=r"resnet has no linear layers, .*use `tune: last_2` o"
        ):
            prepare_tuning(models("resnet").load(), config("lora"))


class TestRates:
    def rates(self, models: Models, name: str, **encoder: Any) -> dict[str, float]:
        backbone = models(name).load()
        document = {
            "name": "a",
            "data": "b",
            "modalities": {
                "input": {"kind": THREE_BLOCKS[name][0], "encoder": {"pretrained": "c", **encoder}}
            },
            "training": {"learning_rate": 0.5},
        }
        recipe = Recipe.model_validate(document)
        prepare_tuning(backbone, recipe.modalities["input"].encoder)
        module = nn.Module()
        module.model = joined(models(name), backbone)
        rates = {w: g["lr"] for g in parameter_groups(module, recipe) for w in g["params"]}
        trainable = {n: w for n, w in module.model.named_parameters() if w.requires_grad}
        assert set(rates) == set(trainable.values())
        prefix = "encoders.0.backbone.model."
        return {n.removeprefix(prefix): rates[w] for n, w in trainable.items()}

    @pytest.mark.parametrize(
        ("name", "block", "first", "last"),
        [
            ("bert", "encoder.layer.{}.output.dense.weight", "embeddings.", "pooler."),
            ("vit", "layers.{}.mlp.fc1.weight", "embeddings.", "layernorm."),
            ("whisper", "layers.{}.fc1.weight", "conv1.", "layer_norm."),
            ("deberta-v2", "encoder.layer.{}.output.dense.weight", "encoder.rel_emb", "encoder.La"),
            ("resnet", "encoder.stages.{}.layers.0.layer.0.convolution.weight", "embedder.", ""),
        ],
    )
    def test_full_learns_slower_from_block_to_block_down(
        self, models: Models, name: str, block: str, first: str, last: str
    ) -> None:
        rates = self.rates(models, name, tune="full", learning_rate=0.01, layer_decay=0.5)
        assert [rates[block.format(n)] for n in range(3)] == [0.0025, 0.005, 0.01]
        assert {rate for n, rate in rates.items() if n.startswith(first)} == {0.00125}
        if last:
            assert {rate for n, rate in rates.items() if n.startswith(last)} == {0.01}

    @pytest.mark.parametrize("tune", ["last_2", "lora"])
    def test_other_tuning_has_one_rate(self, models: Models, tune: str) -> None:
        rates = self.rates(models, "bert", tune=tune, learning_rate=0.01)
        own = {rate for n, rate in rates.items() if n.startswith(("encoder.layer", "pooler"))}
        assert own == {0.01}

    def test_adapter_and_heads_keep_the_rate_of_the_recipe(self, models: Models) -> None:
        rates = self.rates(models, "bert", tune="full")
        names = [n for n in rates if n.startswith(("encoders.0.head.", "fusion."))]
        assert len(names) > 2
        assert {rates[n] for n in names} == {0.5}


@pytest.mark.parametrize("name", WITH_LINEAR_LAYERS)
def test_merged_lora_gives_the_same_features_and_leaves_no_lora(models: Models, name: str) -> None:
    model = models(name)
    plain, backbone = model.load(), model.load()
    prepare_tuning(backbone, config("lora"))
    whole = joined(model, backbone).eval()
    with torch.no_grad():
        for n, weight in backbone.named_parameters():
            if "lora_B" in n:
                weight.normal_(0, 0.1)
        inputs = example(model)[1]
        before = backbone(*inputs)
        merge_lora(whole)
        after = backbone(*inputs)
        assert not before.allclose(plain(*inputs), atol=1e-3)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    assert list(backbone.state_dict()) == list(plain.state_dict())
    assert not [n for n, module in backbone.named_modules() if "lora" in n or "peft" in str(module)]


class TestModes:
    def test_tuned_batch_norms_keep_their_statistics(self, models: Models) -> None:
        backbone = models("resnet").load()
        prepare_tuning(backbone, config("full"))
        backbone.train()
        before = {n: value.clone() for n, value in backbone.named_buffers()}
        backbone(torch.randn(4, 3, 64, 64)).sum().backward()
        assert all(value.equal(before[n]) for n, value in backbone.named_buffers())
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)
        assert all(norm.weight.grad is not None for norm in norms)

    def test_only_trained_parts_have_dropout(self, models: Models) -> None:
        backbone = models("bert").load()
        prepare_tuning(backbone, config("last_2"))
        backbone.train()
        active = [n for n, m in backbone.model.named_modules() if m.training and _is_dropout(m)]
        assert active
        assert all(n.startswith(("encoder.layer.1.", "encoder.layer.2.")) for n in active)
        states = [_states(backbone, models("bert")) for _ in range(2)]
        same = [one.equal(other) for one, other in zip(*states, strict=True)]
        # After the embeddings and the first block nothing is random, later everything is.
        assert same == [True, True, False, False]

    @pytest.mark.parametrize("tune", ["full", "lora"])
    def test_every_block_has_dropout_where_every_block_is_trained(
        self, models: Models, tune: str
    ) -> None:
        backbone = models("bert").load()
        prepare_tuning(backbone, config(tune))
        states = [_states(backbone.train(), models("bert")) for _ in range(2)]
        same = [one.equal(other) for one, other in zip(*states, strict=True)]
        assert same[1:] == [False] * 3

    @pytest.mark.parametrize("tune", ["frozen", "last_2", "full", "lora"])
    def test_evaluation_has_no_dropout(self, models: Models, tune: str) -> None:
        backbone = models("bert").load()
        prepare_tuning(backbone, config(tune))
        backbone.train().eval()
        assert not any(module.training for module in backbone.modules())


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout) and module.p > 0


def _states(backbone: Backbone, model: PretrainedModel) -> list[Tensor]:
    """Return the hidden states before the first block and after each block."""
    ids, mask = example(model)[1]
    states: Any = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    return list(states.hidden_states)
