"""Augmentation: a repeatable change that keeps names, shapes and types."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from tokenizers.models import WordLevel

from dimml.modalities import Arrays, Audio, Flow, Image, Kind, Text
from train.data.augment import Augmentation, augment

STRENGTHS = [0.1, 0.5, 1.0]
SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
"""The ids in BERT's vocabulary, which does not start with them as our tokenizers do."""
VOCABULARY = 300


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def pixels(*shape: int) -> Arrays:
    return {"pixels": random().standard_normal(shape).astype(np.float32)}


def text_kind(unknown: str = "[UNK]") -> Text:
    words = {f"w{i}": i for i in range(VOCABULARY) if i not in SPECIAL.values()}
    tokenizer = tokenizers.Tokenizer(WordLevel({**SPECIAL, **words}, unk_token=unknown))
    tokenizer.add_special_tokens(list(SPECIAL))
    return Text("note", {}, {"tokenizer.json": tokenizer.to_str().encode()})


def kind_of(arrays: Arrays) -> Kind:
    if "power" in arrays:
        return Audio("sound", {})
    return Image("picture", {}) if "pixels" in arrays else text_kind()


def changed(arrays: Arrays, strength: float, generator: np.random.Generator) -> Arrays:
    return augment(kind_of(arrays), arrays, Augmentation(strength=strength), generator)


def tokens(count: int) -> Arrays:
    ids = np.array([101, *random().integers(103, VOCABULARY, count), 102], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


SAMPLES: dict[str, Arrays] = {
    "spectrogram": {"power": random().random((65, 40), np.float32)},
    "spectrogram of one frame": {"power": random().random((65, 1), np.float32)},
    "colour image": pixels(3, 32, 48),
    "tiny image": pixels(1, 2, 2),
    "clip": pixels(4, 3, 32, 32),
    "text": tokens(60),
    "text of special tokens": tokens(0),
}
CHANGEABLE = ["spectrogram", "colour image", "clip", "text"]


def assert_equal(first: Arrays, second: Arrays) -> None:
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("case", SAMPLES)
@pytest.mark.parametrize("strength", [0.0, *STRENGTHS])
class TestEverySample:
    def test_augmentation_keeps_names_shapes_and_types(self, case: str, strength: float) -> None:
        result = changed(SAMPLES[case], strength, random())
        assert {name: (a.shape, a.dtype) for name, a in result.items()} == {
            name: (a.shape, a.dtype) for name, a in SAMPLES[case].items()
        }

    def test_augmentation_does_not_change_the_sample_in_place(
        self, case: str, strength: float
    ) -> None:
        sample = {name: array.copy() for name, array in SAMPLES[case].items()}
        for array in sample.values():
            array.flags.writeable = False
        result = changed(sample, strength, random())
        assert_equal(sample, SAMPLES[case])
        result[next(iter(result))][...] = 7
        assert_equal(sample, SAMPLES[case])

    def test_equal_generators_give_equal_augmentation(self, case: str, strength: float) -> None:
        np.random.seed(1)
        first = changed(SAMPLES[case], strength, random())
        np.random.seed(2)
        assert_equal(changed(SAMPLES[case], strength, random()), first)


@pytest.mark.parametrize("case", SAMPLES)
def test_strength_0_changes_nothing(case: str) -> None:
    generator = random()
    for _ in range(20):
        assert_equal(changed(SAMPLES[case], 0.0, generator), SAMPLES[case])


@pytest.mark.parametrize("case", CHANGEABLE)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_positive_strength_changes_each_sample_differently(case: str, strength: float) -> None:
    generator = random()
    name = next(iter(SAMPLES[case]))
    results = [changed(SAMPLES[case], strength, generator)[name].tobytes() for _ in range(20)]
    assert len(set(results)) > 5


@pytest.mark.parametrize("case", ["spectrogram", "colour image"])
def test_higher_strength_changes_more(case: str) -> None:
    """Count the values of the sample that masks and blanks overwrite."""
    name = next(iter(SAMPLES[case]))
    original = np.unique(SAMPLES[case][name])

    def lost(strength: float) -> float:
        generator = random()
        kept = [
            np.isin(original, changed(SAMPLES[case], strength, generator)[name]).mean()
            for _ in range(100)
        ]
        return 1 - float(np.mean(kept))

    assert 0 < lost(0.3) < lost(1.0) < 0.5


def test_all_frames_of_a_clip_change_alike() -> None:
    frame = SAMPLES["colour image"]["pixels"]
    clip = changed({"pixels": np.stack([frame, frame, frame])}, 1.0, random())["pixels"]
    np.testing.assert_array_equal(clip[0], clip[1])
    np.testing.assert_array_equal(clip[0], clip[2])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_special_tokens_stay_and_some_other_tokens_become_unknown(strength: float) -> None:
    ids = np.array([*SPECIAL.values()] * 50 + [*range(103, VOCABULARY)] * 3, np.int64)
    sample = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    result = changed(sample, strength, random())["input_ids"]
    special = np.isin(ids, list(SPECIAL.values()))
    np.testing.assert_array_equal(result[special], ids[special])
    replaced = result[~special] != ids[~special]
    assert (result[~special][replaced] == SPECIAL["[UNK]"]).all()
    assert replaced.mean() == pytest.approx(0.2 * strength, abs=0.06)
    assert replaced.any()


def test_text_stays_if_the_tokenizer_has_no_unknown_token() -> None:
    kind = text_kind(unknown="")
    assert_equal(
        augment(kind, SAMPLES["text"], Augmentation(strength=1), random()), SAMPLES["text"]
    )


def gradient(*shape: int) -> np.ndarray:
    """Return planes whose values grow from left to right, the same in each plane."""
    return np.broadcast_to(np.linspace(-1, 1, shape[-1], dtype=np.float32), shape).copy()


def cropped(array: np.ndarray, seed: int = 0, smallest: float = 0.1) -> np.ndarray:
    config = Augmentation(strength=0, crop=smallest)
    generator = np.random.default_rng(seed)
    return augment(Image("clip", {}), {"pixels": array}, config, generator)["pixels"]


def test_all_frames_of_a_clip_have_the_same_crop() -> None:
    result = cropped(gradient(4, 3, 20, 30))
    assert (result.shape, result.dtype) == ((4, 3, 20, 30), np.float32)
    assert not np.array_equal(result, gradient(4, 3, 20, 30))
    np.testing.assert_array_equal(result, np.broadcast_to(result[0, 0], result.shape))


def test_crop_is_a_part_of_the_picture_in_its_order() -> None:
    for seed in range(30):
        row = cropped(gradient(1, 20, 30), seed)[0, 0]
        assert (np.diff(row) > 0).all()
        assert row[0] >= -1
        assert row[-1] <= 1


def test_crop_of_the_whole_area_keeps_at_least_three_quarters() -> None:
    widths = [np.ptp(cropped(gradient(1, 20, 30), seed, 1.0)[0, 0]) for seed in range(30)]
    assert min(widths) > 2 * (3 / 4) ** 0.5 * 0.9


def test_half_of_the_clips_are_mirrored_as_a_whole() -> None:
    config, generator = Augmentation(strength=0, mirror=True), random()
    sample = {"pixels": gradient(2, 3, 8, 8)}
    kind = Image("clip", {})
    results = [augment(kind, sample, config, generator)["pixels"] for _ in range(100)]
    mirrored = sum(np.array_equal(result, sample["pixels"][..., ::-1]) for result in results)
    kept = sum(np.array_equal(result, sample["pixels"]) for result in results)
    assert mirrored + kept == 100
    assert 30 < mirrored < 70


def test_mirrored_flow_moves_the_other_way() -> None:
    kind = Flow("flow", {"mean": 0.25, "std": 0.5})
    bright = np.random.default_rng(1).random((3, 2, 4, 4), np.float32)
    sample = {"flow": (bright - 0.25) / 0.5}
    config = Augmentation(strength=0, mirror=True)
    results = [
        augment(kind, sample, config, np.random.default_rng(seed))["flow"] for seed in range(9)
    ]
    [mirrored, *_] = [r for r in results if not np.array_equal(r, sample["flow"])]
    np.testing.assert_allclose(mirrored[:, 0] * 0.5 + 0.25, 1 - bright[:, 0, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(mirrored[:, 1] * 0.5 + 0.25, bright[:, 1, :, ::-1], atol=1e-6)


def test_crop_and_mirror_of_sound_and_text_change_nothing() -> None:
    config = Augmentation(strength=0, crop=0.1, mirror=True)
    for case in ("spectrogram", "text"):
        sample = SAMPLES[case]
        assert_equal(augment(kind_of(sample), sample, config, random()), sample)


def test_augmentations_with_other_changes_have_other_keys() -> None:
    configs = [
        Augmentation(),
        Augmentation(strength=1),
        Augmentation(crop=0.5),
        Augmentation(crop=0.4),
        Augmentation(mirror=True),
    ]
    assert len({config.key for config in configs}) == len(configs)
