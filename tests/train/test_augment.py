"""Augmentation: a changed copy, alike in form, repeatable, and nothing at strength 0."""

from __future__ import annotations

import numpy as np
import pytest

from dimml.modalities import Arrays
from train.augment import SPECIAL_TOKENS, UNKNOWN_TOKEN, augment

STRENGTHS = [0.1, 0.5, 1.0]


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def pixels(*shape: int) -> Arrays:
    return {"pixels": random().standard_normal(shape).astype(np.float32)}


def tokens(count: int) -> Arrays:
    ids = np.array([2, *random().integers(SPECIAL_TOKENS, 100, count), 3], np.int64)
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
    def test_keeps_names_shapes_and_types(self, case: str, strength: float) -> None:
        changed = augment(SAMPLES[case], strength, random())
        assert {name: (a.shape, a.dtype) for name, a in changed.items()} == {
            name: (a.shape, a.dtype) for name, a in SAMPLES[case].items()
        }

    def test_is_not_changed_in_place(self, case: str, strength: float) -> None:
        given = {name: array.copy() for name, array in SAMPLES[case].items()}
        for array in given.values():
            array.flags.writeable = False
        changed = augment(given, strength, random())
        assert_equal(given, SAMPLES[case])
        changed[next(iter(changed))][...] = 7
        assert_equal(given, SAMPLES[case])

    def test_is_changed_alike_by_a_generator_of_the_same_seed(
        self, case: str, strength: float
    ) -> None:
        np.random.seed(1)
        first = augment(SAMPLES[case], strength, random())
        np.random.seed(2)
        assert_equal(augment(SAMPLES[case], strength, random()), first)


@pytest.mark.parametrize("case", SAMPLES)
def test_strength_0_keeps_every_sample_as_it_is(case: str) -> None:
    generator = random()
    for _ in range(20):
        assert_equal(augment(SAMPLES[case], 0.0, generator), SAMPLES[case])


@pytest.mark.parametrize("case", CHANGEABLE)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_any_other_strength_changes_samples_and_each_in_its_own_way(
    case: str, strength: float
) -> None:
    generator = random()
    name = next(iter(SAMPLES[case]))
    drawn = [augment(SAMPLES[case], strength, generator)[name].tobytes() for _ in range(20)]
    assert len(set(drawn)) > 5


@pytest.mark.parametrize("case", ["spectrogram", "colour image"])
def test_the_stronger_the_more_is_changed(case: str) -> None:
    """Counted in values that the sample does not hold once: what masks and blanks write."""
    name = next(iter(SAMPLES[case]))
    original = np.unique(SAMPLES[case][name])

    def lost(strength: float) -> float:
        generator = random()
        kept = [
            np.isin(original, augment(SAMPLES[case], strength, generator)[name]).mean()
            for _ in range(100)
        ]
        return 1 - float(np.mean(kept))

    assert 0 < lost(0.3) < lost(1.0) < 0.5


def test_every_frame_of_a_clip_is_changed_alike() -> None:
    frame = SAMPLES["colour image"]["pixels"]
    clip = augment({"pixels": np.stack([frame, frame, frame])}, 1.0, random())["pixels"]
    np.testing.assert_array_equal(clip[0], clip[1])
    np.testing.assert_array_equal(clip[0], clip[2])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_special_tokens_stay_and_some_others_become_unknown(strength: float) -> None:
    ids = np.array([*range(SPECIAL_TOKENS)] * 50 + [*range(SPECIAL_TOKENS, 300)], np.int64)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    changed = augment(given, strength, random())["input_ids"]
    special = ids < SPECIAL_TOKENS
    np.testing.assert_array_equal(changed[special], ids[special])
    replaced = changed[~special] != ids[~special]
    assert (changed[~special][replaced] == UNKNOWN_TOKEN).all()
    assert replaced.mean() == pytest.approx(0.2 * strength, abs=0.06)
    assert replaced.any()
