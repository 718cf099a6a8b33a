"""Encoders of pretrained models in every family: pooling, rebuilding, and PyTorch against ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from dimml.modalities import KINDS, Arrays, Kind
from dimml.nn.encoders import Encoder, join_encoder
from dimml.nn.pretrained.adapter import Adapter
from dimml.nn.pretrained.backbone import Backbone, build_backbone
from dimml.runtime.session import Graph
from export.onnx import export_encoder
from tests.conftest import PretrainedFolder
from tests.pretrained_folders import MODELS
from train.pretrained import read_model
from train.recipe import ModalityConfig

TOLERANCE = 1e-4
BATCHES = (1, 2, 5)
DIM = 8
SLOW_EXPORT = pytest.mark.slow("it exports a family, which takes seconds")
SLOW_EXPORTS = {
    *("mobilevit", "mobilenet_v2", "swinv2", "deit", "convnext", "dinov3_convnext"),
    *("wavlm", "hubert", "data2vec-audio", "mpnet", "xlm-roberta", "modernbert", "distilbert"),
    *("beit", "dinov3_vit", "roberta", "vit"),
    *("resnet", "bert", "whisper", "wav2vec2", "efficientnet"),
}
"""Families whose export takes long, whose layers are those of another family, or which other tests
export and compare."""

FAMILIES = [(kind, model_type) for kind, models in MODELS.items() for model_type in models]
EXPORTS = [
    pytest.param(family, marks=SLOW_EXPORT if family[1] in SLOW_EXPORTS else ())
    for family in FAMILIES
]
all_families = pytest.mark.parametrize("loaded", FAMILIES, indirect=True, ids="-".join)

WHISPER_SECONDS = 1.0
TEXTS = ("red", "it was red: two", "one two three " * 20)
SAMPLES = (7_000, 16_000)


@dataclass(frozen=True)
class Loaded:
    """A miniature of one family, read and loaded."""

    folder: Path
    kind_name: str
    model_type: str
    kind: Kind
    backbone: Backbone
    encoder: Encoder


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest, pretrained_folder: PretrainedFolder) -> Loaded:
    kind_name, model_type = request.param
    folder = pretrained_folder(kind_name, model_type)
    preprocessing = {"seconds": WHISPER_SECONDS} if model_type == "whisper" else {}
    encoder = {"pretrained": str(folder)}
    modality = ModalityConfig(kind=kind_name, preprocessing=preprocessing, encoder=encoder)
    model = read_model("input", modality)
    kind = KINDS[kind_name]("input", dict(model.preprocessing), model.assets)
    backbone = model.load()
    torch.manual_seed(0)
    head = Adapter(backbone.width, DIM, "mlp")
    head.standardize(torch.randn(9, backbone.width))
    joined = join_encoder(kind, backbone, head).eval()
    return Loaded(folder, kind_name, model_type, kind, backbone, joined)


def batch_of(loaded: Loaded, size: int, length: int) -> Arrays:
    """Return inputs of one of several lengths. Texts of a batch differ in length."""
    generator = np.random.default_rng(size)
    if loaded.kind_name == "text":
        values: list[Any] = [TEXTS[max(0, length - row)] for row in range(size)]
    elif loaded.kind_name == "image":
        values = [generator.integers(0, 255, (40, 50, 3), dtype=np.uint8) for _ in range(size)]
    else:
        values = [
            (0.1 * generator.standard_normal(SAMPLES[length] - row)).astype(np.float32)
            for row in range(size)
        ]
    return loaded.kind.collate([loaded.kind.preprocess(loaded.kind.decode(v)) for v in values])


def lengths_of(loaded: Loaded) -> range:
    """Return the numbers of the lengths to try."""
    if loaded.kind_name == "audio":
        return range(len(SAMPLES) if loaded.kind.config.seconds is None else 1)
    return range(len(TEXTS) if loaded.kind_name == "text" else 1)


def tensors(inputs: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in inputs.items()}


def pooler(tower: str = "") -> Callable[[Any, Tensor], Tensor]:
    """Return the pooled output of a model, or of one of its towers."""
    return lambda model, x: (getattr(model, tower) if tower else model)(x).pooler_output


def first_token(part: str = "") -> Callable[[Any, Tensor], Tensor]:
    return lambda model, x: (getattr(model, part) if part else model)(x).last_hidden_state[:, 0]


def positions(model: Any, x: Tensor) -> Tensor:
    return model(x).last_hidden_state.mean(dim=(2, 3))


def normalised_positions(model: Any, x: Tensor) -> Tensor:
    return model.layernorm(positions(model, x))


def tokens(model: Any, x: Tensor) -> Tensor:
    return model(x).last_hidden_state.mean(dim=1)


def whisper_tokens(model: Any, mel: Tensor) -> Tensor:
    """Shorten the window of the encoder, because it reads no other length than its own."""
    count = mel.shape[2] // 2
    model.config.max_source_positions = count
    weights = model.encoder.embed_positions.weight[:count].detach()
    model.encoder.embed_positions = nn.Embedding.from_pretrained(weights)
    return model.encoder(mel).last_hidden_state


def frames(model: Any, samples: Tensor) -> Tensor:
    return model(samples).last_hidden_state


def two_tokens(model: Any, x: Tensor) -> Tensor:
    # The tokens of classification and of distillation.
    return model(x).last_hidden_state[:, :2].mean(dim=1)


REFERENCES: dict[str, dict[str, tuple[str, Callable[[Any, Tensor], Tensor]]]] = {
    "image": {
        "clip": ("CLIPModel", pooler("vision_model")),
        "siglip": ("SiglipModel", pooler("vision_model")),
        "dinov2": ("Dinov2Model", first_token()),
        "dinov3_vit": ("DINOv3ViTModel", first_token()),
        "dinov3_convnext": ("DINOv3ConvNextModel", first_token()),
        "vit": ("ViTForImageClassification", first_token("vit")),
        "deit": ("DeiTForImageClassification", first_token("deit")),
        "beit": ("BeitForImageClassification", pooler("beit")),
        "convnext": ("ConvNextModel", normalised_positions),
        "convnextv2": ("ConvNextV2Model", normalised_positions),
        "resnet": ("ResNetModel", positions),
        "swin": ("SwinModel", tokens),
        "swinv2": ("Swinv2Model", tokens),
        "efficientnet": ("EfficientNetModel", positions),
        "mobilenet_v2": ("MobileNetV2Model", positions),
        "mobilevit": ("MobileViTModel", positions),
    },
    "audio": {
        "whisper": ("WhisperModel", whisper_tokens),
        "wav2vec2": ("Wav2Vec2Model", frames),
        "hubert": ("HubertModel", frames),
        "wavlm": ("WavLMModel", frames),
        "data2vec-audio": ("Data2VecAudioModel", frames),
        "audio-spectrogram-transformer": ("ASTModel", two_tokens),
        "clap": ("ClapModel", pooler("audio_model")),
    },
    "text": {
        "bert": ("BertModel", tokens),
        "roberta": ("RobertaModel", tokens),
        "xlm-roberta": ("XLMRobertaModel", tokens),
        "mpnet": ("MPNetModel", tokens),
        "distilbert": ("DistilBertModel", tokens),
        "modernbert": ("ModernBertModel", tokens),
        "deberta-v2": ("DebertaV2Model", tokens),
        "clip": ("CLIPModel", pooler("text_model")),
        "siglip": ("SiglipModel", pooler("text_model")),
    },
}
"""Kind and `model_type` to the class that reads the folder, and what its features are."""


def reference_features(loaded: Loaded, inputs: Arrays) -> Tensor:
    """Return the pooled features of each row, computed with the model's own class."""
    name, features = REFERENCES[loaded.kind_name][loaded.model_type]
    model = getattr(transformers, name).from_pretrained(loaded.folder).eval()
    [values, *masks] = tensors(inputs).values()
    if masks:
        # Alone, a text needs no padding. SigLIP was trained with its padding as tokens.
        used = [
            row if loaded.model_type == "siglip" else row[mask == 1]
            for row, mask in zip(values, masks[0], strict=True)
        ]
        return torch.cat([features(model, row.unsqueeze(0)) for row in used])
    if loaded.backbone.front_end is None:
        return features(model, values)
    prepared, lengths = loaded.backbone.front_end(values)
    states = features(model, prepared)
    if states.ndim == 2:
        return states
    if loaded.model_type == "whisper":
        lengths = (lengths + 1) // 2
    else:
        lengths = model._get_feat_extract_output_lengths(lengths)
    return torch.stack([s[:n].mean(dim=0) for s, n in zip(states, lengths.tolist(), strict=True)])


def test_every_family_has_a_miniature_and_a_reference() -> None:
    assert {k: set(v) for k, v in REFERENCES.items()} == {k: set(v) for k, v in MODELS.items()}


@all_families
@torch.no_grad()
def test_pooled_features_equal_those_of_the_own_class(loaded: Loaded) -> None:
    inputs = batch_of(loaded, 3, lengths_of(loaded)[-1])
    pooled = loaded.backbone(*tensors(inputs).values())
    assert pooled.shape == (3, loaded.backbone.width)
    torch.testing.assert_close(pooled, reference_features(loaded, inputs), rtol=1e-5, atol=1e-5)
    # Samples that differ have features that differ.
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


@all_families
@torch.no_grad()
def test_rebuilt_backbone_gives_the_same_features(loaded: Loaded) -> None:
    settings = loaded.backbone.settings
    document = settings.model_dump_json()
    rebuilt = build_backbone(type(settings).model_validate_json(document)).eval()
    inputs = tensors(batch_of(loaded, 2, 0)).values()
    assert rebuilt.state_dict().keys() == loaded.backbone.state_dict().keys()
    rebuilt.load_state_dict(loaded.backbone.state_dict())
    torch.testing.assert_close(rebuilt(*inputs), loaded.backbone(*inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("loaded", EXPORTS, indirect=True, ids="-".join)
@torch.no_grad()
def test_exported_graph_equals_the_encoder(loaded: Loaded, tmp_path: Path) -> None:
    export_encoder(loaded.encoder, loaded.kind, tmp_path / "encoder.onnx")
    graph = Graph(tmp_path / "encoder.onnx", "cpu")
    for length in lengths_of(loaded):
        for size in BATCHES:
            inputs = batch_of(loaded, size, length)
            [features] = graph.run(inputs)
            expected = loaded.encoder(**tensors(inputs)).numpy()
            assert expected.shape == (size, DIM)
            np.testing.assert_allclose(features, expected, rtol=0, atol=TOLERANCE)
