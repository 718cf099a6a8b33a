"""Front ends of audio models: from a recording to what the family's own extractor gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from dimml.modalities import KINDS, Audio
from dimml.nn.pretrained.front_ends import build_front_end, used_length
from tests.conftest import PretrainedFolder
from train.pretrained import PretrainedModel, read_model
from train.recipe import ModalityConfig

TOLERANCE = 1e-3
SPECTRAL = ["whisper", "clap", "audio-spectrogram-transformer"]
SPEECH = ["wav2vec2", "hubert", "wavlm", "data2vec-audio"]
CLIPS = ["noise", "chirp", "short", "exact", "odd", "long"]
SPEECH_SECONDS = 1.3


def clip_of(name: str, window: int) -> np.ndarray:
    """Return a clip, float32 [samples], for a model that reads `window` samples."""
    generator = np.random.default_rng(0)
    sizes = {
        "short": int(0.23 * window),
        "odd": int(0.53 * window) | 1,
        "exact": window,
        "long": window + 1234,
    }
    samples = 0.1 * generator.standard_normal(sizes.get(name, int(0.8 * window)))
    if name == "noise":
        # Neighbours that are averaged make the noise weaker at high frequencies.
        samples = (samples + np.roll(samples, 1)) / 2
    if name == "chirp":
        position = np.linspace(0, 1, len(samples))
        quiet = np.where((position * 7).astype(int) % 2, 1.0, 1e-3)
        samples = 0.4 * quiet * np.sin(2 * np.pi * (50 + 0.1 * len(samples) * position) * position)
    return samples.astype(np.float32)


def read(folder: Path, **preprocessing: Any) -> tuple[PretrainedModel, Audio]:
    encoder = {"pretrained": str(folder)}
    modality = ModalityConfig(kind="audio", preprocessing=preprocessing, encoder=encoder)
    model = read_model("sound", modality)
    kind = KINDS["audio"]("sound", dict(model.preprocessing), model.assets)
    assert isinstance(kind, Audio)
    return model, kind


def host(kind: Audio, samples: np.ndarray) -> Tensor:
    """Return the graph input of one clip."""
    [values] = kind.collate([kind.preprocess(kind.decode(samples))]).values()
    return torch.from_numpy(values)


def front_end(model: PretrainedModel, values: Tensor) -> tuple[Tensor, Tensor]:
    layers = build_front_end(model.settings.family.front_end, model.settings.front_end)
    features: tuple[Tensor, Tensor] = layers(values)
    return features


def extract(folder: Path, samples: np.ndarray) -> np.ndarray:
    """Return what the family's own extractor gives for one clip."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")
    [values] = features[extractor.model_input_names[0]]
    return np.asarray(values)


def middle(samples: np.ndarray, window: int) -> np.ndarray:
    start = max(0, (len(samples) - window) // 2)
    return samples[start : start + window]


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("model_type", SPECTRAL)
def test_front_end_equals_the_extractor(
    pretrained_folder: PretrainedFolder, model_type: str, name: str
) -> None:
    folder = pretrained_folder("audio", model_type)
    model, kind = read(folder)
    assert kind.config.seconds is not None
    window = round(kind.config.seconds * kind.config.sample_rate)
    samples = clip_of(name, window)
    values, _ = front_end(model, host(kind, samples))
    # Extractors cut long recordings to their start or at random, dimml to their middle.
    expected = extract(folder, middle(samples, window))
    # The extractor of CLAP computes in double precision. Below a loud tone, the decibels of silent
    # bands are the rounding of single precision.
    audible = expected > expected.max() - (75 if model_type == "clap" else np.inf)
    difference = np.abs(values[0].numpy() - expected)
    assert difference[audible].max() < TOLERANCE
    assert difference.max() < 0.5


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("model_type", SPEECH)
def test_waveform_equals_the_extractor_and_ignores_the_padding(
    pretrained_folder: PretrainedFolder, model_type: str, name: str
) -> None:
    folder = pretrained_folder("audio", model_type)
    model, kind = read(folder)
    samples = 3 * clip_of(name, int(SPEECH_SECONDS * 16_000)) + np.float32(0.05)
    values, used = front_end(model, host(kind, samples))
    assert used.tolist() == [len(samples)]
    assert values.shape[1] % 8000 == 0
    np.testing.assert_allclose(
        values[0, : len(samples)].numpy(), extract(folder, samples), rtol=0, atol=TOLERANCE
    )
    assert not values[0, len(samples) :].any()


def test_waveform_without_normalisation_is_unchanged() -> None:
    samples = torch.from_numpy(clip_of("noise", 1000)).unsqueeze(0)
    values, used = build_front_end("waveform", {"normalize": False})(samples)
    assert torch.equal(values, samples)
    assert used.tolist() == [800]


@pytest.mark.parametrize("name", ["chirp", "short", "odd"])
def test_whisper_with_a_shorter_window_equals_the_extractor_on_its_first_frames(
    pretrained_folder: PretrainedFolder, name: str
) -> None:
    folder = pretrained_folder("audio", "whisper")
    model, kind = read(folder, seconds=2.0)
    samples = clip_of(name, 32_000)
    values, _ = front_end(model, host(kind, samples))
    assert values.shape == (1, 80, 200)
    expected = extract(folder, samples)[:, :200]
    np.testing.assert_allclose(values[0].numpy(), expected, rtol=0, atol=TOLERANCE)


def test_whisper_mirrors_a_clip_that_fills_its_shorter_window(
    pretrained_folder: PretrainedFolder,
) -> None:
    folder = pretrained_folder("audio", "whisper")
    model, kind = read(folder, seconds=2.0)
    samples = clip_of("exact", 32_000)
    values, _ = front_end(model, host(kind, samples))
    expected = extract(folder, samples)[:, :200]
    # The last frame reaches over the end, where the extractor has the silence up to 30 s.
    difference = np.abs(values[0].numpy() - expected).max(axis=0)
    assert difference[:199].max() < TOLERANCE
    assert difference[199] > TOLERANCE


def whisper_states(folder: Path, mel: Tensor) -> Tensor:
    """Run the reference encoder after shortening its window to that of the spectrogram."""
    encoder: Any = transformers.WhisperModel.from_pretrained(folder).eval().encoder
    positions = mel.shape[2] // 2
    encoder.config.max_source_positions = positions
    weights = encoder.embed_positions.weight[:positions].detach()
    encoder.embed_positions = nn.Embedding.from_pretrained(weights)
    states: Tensor = encoder(mel).last_hidden_state
    return states


@torch.no_grad()
@pytest.mark.parametrize("seconds", [2.0, 30.0])
@pytest.mark.parametrize("samples", [8_000, 20_801, 32_000])
def test_whisper_pools_the_frames_that_hear_the_clip(
    pretrained_folder: PretrainedFolder, seconds: float, samples: int
) -> None:
    folder = pretrained_folder("audio", "whisper")
    model, kind = read(folder, seconds=seconds)
    values = host(kind, clip_of("exact", samples))
    mel, used = front_end(model, values)
    # Frame t reads from 199 samples before 160 t, because its window starts with a weight of 0.
    frames = min((samples + 198) // 160 + 1, round(seconds * 100))
    assert used.tolist() == [frames]
    expected = whisper_states(folder, mel)[:, : -(-frames // 2)].mean(dim=1)
    torch.testing.assert_close(model.load()(values), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("silence", [1, 7_000, 90_000])
def test_silence_after_a_clip_is_not_pooled(
    pretrained_folder: PretrainedFolder, silence: int
) -> None:
    model, kind = read(pretrained_folder("audio", "whisper"), seconds=None)
    clip = clip_of("odd", 32_000)
    longer = np.pad(clip, (0, silence))
    assert front_end(model, host(kind, clip))[1] == front_end(model, host(kind, longer))[1]


@torch.no_grad()
@pytest.mark.parametrize("model_type", [*SPECTRAL, *SPEECH])
def test_digital_silence_gives_finite_features(
    pretrained_folder: PretrainedFolder, model_type: str
) -> None:
    model, kind = read(pretrained_folder("audio", model_type))
    values = host(kind, np.zeros(8_000, np.float32))
    features = model.load()(values)
    assert features.isfinite().all()
    assert features.abs().max() > 0


@torch.no_grad()
@pytest.mark.parametrize("model_type", SPEECH)
def test_speech_features_do_not_pool_the_padding(
    pretrained_folder: PretrainedFolder, model_type: str
) -> None:
    model, kind = read(pretrained_folder("audio", model_type))
    backbone = model.load()
    values = host(kind, clip_of("odd", 24_000))
    normalised, used = front_end(model, values)
    own: Any = backbone.model
    states = own(normalised).last_hidden_state
    frames = int(own._get_feat_extract_output_lengths(used))
    assert frames < states.shape[1]
    torch.testing.assert_close(backbone(values), states[:, :frames].mean(dim=1))


def test_used_length_is_at_least_one() -> None:
    loudness = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1e-30, 0.0], [1.0, 0.0, 2.0]])
    assert used_length(loudness).tolist() == [1, 2, 3]
