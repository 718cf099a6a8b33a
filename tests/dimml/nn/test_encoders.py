"""Encoders: shapes of each kind and preset, frames, padding, and how they are put together."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
import torch
from torch import Tensor, nn

from dimml.errors import RecipeError
from dimml.modalities import KINDS, Kind
from dimml.nn.encoders import Encoder, ImageEncoder, build_encoder, join_encoder

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
            ("audio", "small, resnet18"),
            ("image", "small, resnet18"),
            ("text", "small"),
        ],
    )
    def test_unknown_preset_error_lists_the_presets(self, kind: str, presets: str) -> None:
        message = (
            f"{kind}: no encoder preset 'huge'; choose one of: {presets}; or give a pretrained"
        )
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


@pytest.mark.parametrize(
    ("kind", "preset", "config"),
    [
        ("audio", "small", {}),
        ("image", "small", {}),
        ("image", "resnet18", {"frames": 2}),
        ("text", "small", {}),
    ],
)
def test_encoder_is_a_backbone_and_a_head(kind: str, preset: str, config: dict[str, Any]) -> None:
    encoder = build_encoder(kind_of(kind, **config), DIM, preset=preset)
    assert isinstance(encoder, Encoder)
    assert {name for name, _ in encoder.named_children()} == {"backbone", "head"}
    assert isinstance(encoder.head, nn.Linear)
    assert encoder.head.in_features == encoder.backbone.width
    assert all(module.training for module in encoder.modules())


@pytest.mark.parametrize(
    ("kind", "config", "inputs"),
    [
        ("audio", {}, ["power"]),
        ("audio", {"output": "waveform"}, ["waveform"]),
        ("image", {}, ["pixels"]),
        ("text", {}, ["input_ids", "attention_mask"]),
    ],
)
def test_joined_encoder_takes_the_inputs_of_its_kind(
    kind: str, config: dict[str, Any], inputs: list[str]
) -> None:
    class Sum(nn.Module):
        def forward(self, *values: Tensor) -> Tensor:
            return torch.stack([value.flatten(1).sum(dim=1) for value in values], dim=1)

    encoder = join_encoder(kind_of(kind, **config), Sum(), nn.Identity())
    values = {name: torch.rand(3, 4, 5, 6) for name in inputs}
    expected = torch.stack([value.flatten(1).sum(dim=1) for value in values.values()], dim=1)
    assert torch.equal(encode(encoder, values), expected)


def test_preset_needs_a_power_spectrogram() -> None:
    with pytest.raises(RecipeError, match="audio: the preset small needs `output: power`"):
        build_encoder(kind_of("audio", output="waveform"), DIM)
