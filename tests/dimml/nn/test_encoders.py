"""Encoders: shapes of each kind and preset, frames, padding, and pretrained weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedModel, ResNetConfig, ResNetModel

from dimml.errors import RecipeError
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import ImageEncoder, SpectrogramEncoder, TextEncoder, build_encoder

DIM = 16
WORDS = 20
TOKENIZER = {
    "tokenizer.json": tokenizers.Tokenizer(
        tokenizers.models.WordLevel({str(n): n for n in range(WORDS)}, unk_token="0")
    )
    .to_str()
    .encode()
}


def kind_of(kind: str, **config: Any) -> Kind:
    defaults = {"image": {"size": [32, 32]}, "text": {"max_length": 12}}.get(kind, {})
    return KINDS[kind](kind, {**defaults, **config}, TOKENIZER)


def random_inputs(kind: str, samples: int, **config: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if kind == "audio":
        return {"power": torch.rand(samples, 257, config.get("time", 101), generator=generator)}
    if kind == "image":
        shape = [samples, config.get("channels", 3), 32, 32]
        shape[1:1] = [config["frames"]] if "frames" in config else []
        return {"pixels": torch.randn(shape, generator=generator)}
    ids = torch.randint(0, WORDS, (samples, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def encode(encoder: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    features: Tensor = encoder.eval()(**inputs)
    return features


def tiny_resnet(channels: int = 3) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
    return ResNetModel(ResNetConfig(num_channels=channels, layer_type="basic", **sizes))


def tiny_bert(vocab_size: int = WORDS) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertModel(
        BertConfig(vocab_size=vocab_size, intermediate_size=8, max_position_embeddings=16, **sizes)
    )


def pretrained(kind: Kind, folder: Path) -> nn.Module:
    return build_encoder(kind, DIM, preset="pretrained", pretrained=str(folder))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resnet")
    tiny_resnet().save_pretrained(folder)
    assert (folder / "model.safetensors").is_file()
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tiny_bert().save_pretrained(folder)
    return folder


class TestFromScratch:
    @pytest.mark.parametrize(
        ("kind", "preset", "config"),
        [
            ("audio", "small", {}),
            ("audio", "resnet18", {}),
            ("image", "small", {}),
            ("image", "small", {"channels": 1}),
            ("image", "small", {"frames": 3}),
            ("image", "resnet18", {}),
            ("text", "small", {}),
        ],
    )
    @pytest.mark.parametrize("samples", [1, 3])
    def test_every_encoder_returns_one_vector_per_sample(
        self, kind: str, preset: str, config: dict[str, Any], samples: int
    ) -> None:
        encoder = build_encoder(kind_of(kind, **config), DIM, preset=preset)
        features = encode(encoder, random_inputs(kind, samples, **config))
        assert features.shape == (samples, DIM)
        assert features.dtype == torch.float32
        assert features.isfinite().all()

    def test_resnet18_has_the_expected_number_of_weights(self) -> None:
        encoder = build_encoder(kind_of("image"), DIM, preset="resnet18")
        assert isinstance(encoder, ImageEncoder)
        # torchvision's model has 11,689,512 weights, its classifier of 1,000 classes 513,000.
        assert sum(p.numel() for p in encoder.backbone.parameters()) == 11_689_512 - 513_000

    @pytest.mark.parametrize("time", [40, 101, 250])
    @pytest.mark.parametrize("n_mels", [64, None])
    def test_audio_encoder_takes_any_length_and_linear_frequencies(
        self, time: int, n_mels: int | None
    ) -> None:
        encoder = build_encoder(kind_of("audio"), DIM, n_mels=n_mels)
        assert encode(encoder, random_inputs("audio", 2, time=time)).shape == (2, DIM)

    @pytest.mark.parametrize(
        ("kind", "presets"),
        [
            ("audio", "small, resnet18, pretrained"),
            ("image", "small, resnet18, pretrained"),
            ("text", "small, pretrained"),
        ],
    )
    def test_unknown_preset_error_lists_the_presets(self, kind: str, presets: str) -> None:
        message = f"{kind}: no encoder preset 'huge'; choose one of: {presets}"
        with pytest.raises(RecipeError, match=message):
            build_encoder(kind_of(kind), DIM, preset="huge")


def test_clip_features_are_the_mean_over_frames() -> None:
    torch.manual_seed(0)
    clip = build_encoder(kind_of("image", frames=3), DIM)
    single = build_encoder(kind_of("image"), DIM)
    single.load_state_dict(clip.state_dict())
    inputs = random_inputs("image", 2, frames=3)
    frames = torch.stack([encode(single, {"pixels": f}) for f in inputs["pixels"].unbind(1)])
    torch.testing.assert_close(encode(clip, inputs), frames.mean(dim=0), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(frames[0], frames[1], atol=1e-3)


@pytest.mark.parametrize("padding_id", [0, 5])
def test_padding_does_not_change_text_features(padding_id: int) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(kind_of("text"), DIM)
    inputs = random_inputs("text", 2)
    ids = nn.functional.pad(inputs["input_ids"], (0, 5), value=padding_id)
    mask = nn.functional.pad(inputs["attention_mask"], (0, 5))
    plain = encode(encoder, inputs)
    padded = encode(encoder, {"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-5)
    unmasked = encode(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    assert not torch.allclose(unmasked, plain, atol=1e-3)


class TestPretrained:
    def test_image_encoder_loads_pretrained_weights(self, resnet: Path) -> None:
        encoder = pretrained(kind_of("image"), resnet)
        assert isinstance(encoder, ImageEncoder)
        inputs = random_inputs("image", 2)
        features = encode(encoder, inputs)
        pooled = tiny_resnet().eval()(inputs["pixels"]).last_hidden_state.mean(dim=(2, 3))
        assert features.shape == (2, DIM)
        torch.testing.assert_close(features, encoder.projection(pooled), atol=1e-5, rtol=1e-5)

    def test_text_encoder_loads_pretrained_weights(self, bert: Path) -> None:
        encoder = pretrained(kind_of("text"), bert)
        assert isinstance(encoder, TextEncoder)
        inputs = random_inputs("text", 2)
        pooled = tiny_bert().eval()(**inputs).last_hidden_state.mean(dim=1)
        torch.testing.assert_close(
            encode(encoder, inputs), encoder.projection(pooled), atol=1e-5, rtol=1e-5
        )

    def test_spectrogram_goes_through_a_colour_backbone(self, resnet: Path) -> None:
        encoder = pretrained(kind_of("audio"), resnet)
        assert isinstance(encoder, SpectrogramEncoder)
        inputs = random_inputs("audio", 2)
        grey = encoder.log_mel(inputs["power"]).unsqueeze(1)
        pooled = tiny_resnet().eval()(torch.cat([grey] * 3, 1)).last_hidden_state.mean(dim=(2, 3))
        torch.testing.assert_close(
            encode(encoder, inputs), encoder.projection(pooled), atol=1e-5, rtol=1e-5
        )

    def test_half_precision_weights_are_loaded_as_float32(self, tmp_path: Path) -> None:
        tiny_resnet().half().save_pretrained(tmp_path)
        encoder = pretrained(kind_of("image"), tmp_path)
        assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
        assert encode(encoder, random_inputs("image", 1)).dtype == torch.float32

    def test_pretrained_encoder_is_in_training_mode(self, resnet: Path) -> None:
        assert all(module.training for module in pretrained(kind_of("image"), resnet).modules())


class TestRefusedWeights:
    def test_pretrained_folder_that_does_not_exist_is_rejected(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match=r"image: cannot load '.*nowhere' as a hub id or a"):
            pretrained(kind_of("image"), tmp_path / "nowhere")

    def test_pretrained_without_a_name_is_rejected(self) -> None:
        with pytest.raises(RecipeError, match="needs `pretrained: <hub id or folder>`"):
            build_encoder(kind_of("image"), DIM, preset="pretrained")

    def test_pickled_weights_are_rejected(self, tmp_path: Path) -> None:
        model = tiny_resnet()
        model.config.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        with pytest.raises(RecipeError, match=r"no file named model\.safetensors"):
            pretrained(kind_of("image"), tmp_path)

    def test_damaged_weights_are_rejected(self, resnet: Path, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_bytes((resnet / "config.json").read_bytes())
        (tmp_path / "model.safetensors").write_bytes(b"junk" * 20)
        with pytest.raises(RecipeError, match="image: cannot load"):
            pretrained(kind_of("image"), tmp_path)

    def test_code_of_a_pretrained_model_is_not_run(self, tmp_path: Path) -> None:
        names = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": names}))
        (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        with pytest.raises(RecipeError, match="trust_remote_code"):
            pretrained(kind_of("image"), tmp_path)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("kind", "folder", "input_name"),
        [("image", "bert", "input_ids"), ("text", "resnet", "pixel_values")],
    )
    def test_pretrained_model_of_another_input_is_rejected(
        self, request: pytest.FixtureRequest, kind: str, folder: str, input_name: str
    ) -> None:
        with pytest.raises(RecipeError, match=f"reads {input_name}; choose a model"):
            pretrained(kind_of(kind), request.getfixturevalue(folder))

    def test_pretrained_model_with_too_few_tokens_is_rejected(self, tmp_path: Path) -> None:
        tiny_bert(vocab_size=WORDS - 1).save_pretrained(tmp_path)
        with pytest.raises(RecipeError, match=r"has 20 tokens .* has 19; set `tokenizer`"):
            pretrained(kind_of("text"), tmp_path)

    def test_pretrained_model_with_too_few_positions_is_rejected(self, bert: Path) -> None:
        with pytest.raises(RecipeError, match=r"max_length is 17 .* reads at most 16 tokens"):
            pretrained(kind_of("text", max_length=17), bert)
