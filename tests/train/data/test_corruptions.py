from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml.modalities import Audio, Flow, Image, Kind, Text
from dimml.modalities.audio import Recording
from train.data import corruptions
from train.data.splits import train_tokenizer

RANDOM = np.random.default_rng
TEXT = "seven small ships sailed past the sleepy harbour at dawn " * 20


def tone() -> Recording:
    return Recording(0.3 * np.sin(np.arange(8000, dtype=np.float32) / 5))


def picture(mode: str = "RGB") -> PIL.Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    return PIL.Image.fromarray(pixels).convert(mode)


def strengths(name: str, corruption: str) -> tuple[float, ...]:
    return corruptions.CORRUPTIONS[name][corruption][1]


@pytest.mark.parametrize("decibels", strengths("audio", "noise"))
def test_audio_noise_has_its_signal_to_noise_ratio(decibels: float) -> None:
    clean = tone()
    noise = corruptions.audio_noise(clean, decibels, RANDOM(0)).samples - clean.samples
    ratio = 10 * np.log10(np.mean(clean.samples**2) / np.mean(noise**2))
    assert ratio == pytest.approx(decibels, abs=0.3)


def test_noise_leaves_silence_silent() -> None:
    silent = Recording(np.zeros(100, np.float32))
    assert not corruptions.audio_noise(silent, 0.0, RANDOM(0)).samples.any()


@pytest.mark.parametrize("corruption", ["blur", "noise"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_image_differs_more_at_each_level(corruption: str, mode: str) -> None:
    clean = np.asarray(picture(mode), float)
    function, strengths = corruptions.CORRUPTIONS["image"][corruption]
    changed = [function(picture(mode), strength, RANDOM(0)) for strength in strengths]
    distances = [np.abs(np.asarray(image, float) - clean).mean() for image in changed]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert {(image.size, image.mode) for image in changed} == {((60, 40), mode)}


@pytest.mark.parametrize("area", strengths("image", "occlusion"))
def test_occlusion_covers_its_share(area: float) -> None:
    white = PIL.Image.new("RGB", (100, 100), "white")
    covered = np.asarray(corruptions.image_occlusion(white, area, RANDOM(0)))
    assert float((covered == 127).all(axis=2).mean()) == pytest.approx(area, abs=0.02)


@pytest.mark.parametrize("share", strengths("text", "words"))
def test_text_loses_its_share(share: float) -> None:
    typed = corruptions.text_characters(TEXT, share, RANDOM(0))
    assert len(typed) == len(TEXT)
    wrong = np.mean([a != b for a, b in zip(TEXT, typed, strict=True) if a.isalnum()])
    assert wrong == pytest.approx(share * 25 / 26, abs=0.05)
    words = corruptions.text_words(TEXT, share, RANDOM(0)).split()
    assert len(words) / len(TEXT.split()) == pytest.approx(1 - share, abs=0.1)


@pytest.mark.parametrize("text", ["a", "sept", "zwei drei"])
def test_text_never_loses_everything(text: str) -> None:
    for seed in range(50):
        left = corruptions.text_words(text, 0.5, RANDOM(seed))
        assert left.strip()
        assert set(left) <= set(text)


KINDS: dict[str, tuple[Kind, Any]] = {
    "audio": (Audio("call", {"sample_rate": 8000, "seconds": None}), tone().samples),
    "image": (Image("front", {"size": (16, 16)}), np.asarray(picture())),
    "flow": (Flow("motion", {"size": (16, 16), "frames": 1}), [np.asarray(picture())] * 2),
    "text": (Text("note", {}, {"tokenizer.json": train_tokenizer([TEXT], 100)}), TEXT[:56]),
}


@pytest.mark.parametrize(
    ("name", "corruption"), [(n, c) for n, names in corruptions.CORRUPTIONS.items() for c in names]
)
class TestCorruptedKind:
    def arrays(self, name: str, corruption: str, level: int) -> dict[str, np.ndarray]:
        kind, value = KINDS[name]
        changed = corruptions.CorruptedKind(kind, name, corruption, level)
        return dict(changed.preprocess(changed.decode(value)))

    def test_corruption_is_deterministic(self, name: str, corruption: str) -> None:
        one, two = (self.arrays(name, corruption, 2) for _ in range(2))
        assert all(np.array_equal(one[key], two[key]) for key in one)

    def test_corrupted_arrays_differ_from_clean_ones(self, name: str, corruption: str) -> None:
        kind, value = KINDS[name]
        clean = kind.preprocess(kind.decode(value))
        changed = self.arrays(name, corruption, 3)
        key = kind.input_names[0]
        assert changed.keys() == clean.keys()
        assert not np.array_equal(changed[key], clean[key])


def test_image_file_and_array_are_corrupted_alike() -> None:
    file = io.BytesIO()
    picture().save(file, "PNG")
    changed = corruptions.CorruptedKind(KINDS["image"][0], "image", "noise", 1)
    one, two = (
        changed.preprocess(changed.decode(value))["pixels"]
        for value in (file.getvalue(), np.asarray(picture()))
    )
    assert np.array_equal(one, two)
