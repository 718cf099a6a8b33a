"""The predictor: any subset answers, a bad sample fails alone, the batch changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimml import InputError, Prediction, Predictor
from dimml.bundle import Bundle, Conformal
from dimml.errors import UsageError
from dimml.runtime.execution import HostPath
from dimml.runtime.session import Graph
from dimml.samples import subset_name, subsets

NAMES = ("audio", "image", "text")
SUBSETS = list(subsets(NAMES))
TEXTS = ("a", "seven", "one two three", "zero one two three a b c d e f g h zero one two three")


def recording(seed: int, length: int = 16_000) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(length)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 30, 3), np.uint8)


FULL = {"audio": recording(0), "image": picture(0), "text": "seven"}

POOL: list[dict[str, Any]] = [
    {
        name: value
        for name, value in (
            ("audio", recording(number)),
            ("image", picture(number)),
            ("text", TEXTS[number % len(TEXTS)]),
        )
        if name in SUBSETS[number % len(SUBSETS)]
    }
    for number in range(2 * len(SUBSETS))
]
"""Samples of every subset, twice, with texts of different lengths."""


class Spy(Graph):
    """A graph that notes how many rows it was run on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "cpu")
        self.rows: list[int] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.rows.append(len(next(iter(inputs.values()))))
        return super().run(inputs)


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, "cpu")


@pytest.fixture
def spied(tiny_bundle: Path) -> tuple[Predictor, dict[str, Spy]]:
    bundle = Bundle.load(tiny_bundle)
    spies = {name: Spy(tiny_bundle / f"{name}.onnx") for name in NAMES}
    classifier = Graph(tiny_bundle / "classifier.onnx", "cpu")
    path = HostPath(list(spies.values()), classifier, bundle.manifest.feature_dim)
    return Predictor(bundle, bundle.kinds(), path, "cpu"), spies


def with_conformal(predictor: Predictor, thresholds: Mapping[str, float]) -> Predictor:
    """The same predictor, of a bundle that has these conformal thresholds."""
    conformal = Conformal(coverage=0.9, thresholds=dict(thresholds))
    manifest = predictor.bundle.manifest.model_copy(update={"conformal": conformal})
    twin = copy(predictor)
    twin.bundle = replace(predictor.bundle, manifest=manifest)
    return twin


def assert_same(answers: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
        for name, output in answer.modalities.items():
            assert output.present == wanted.modalities[name].present
            assert output.weight == pytest.approx(wanted.modalities[name].weight, abs=1e-5)


@pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
class TestEverySubset:
    def test_answers_with_probabilities_and_weights_that_sum_to_one(
        self, predictor: Predictor, subset: tuple[str, ...]
    ) -> None:
        answer = predictor.predict({name: FULL[name] for name in subset})
        assert list(answer.probabilities) == list(predictor.labels)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert answer.confidence == max(answer.probabilities.values())
        assert answer.probabilities[answer.label] == answer.confidence
        assert sum(m.weight for m in answer.modalities.values()) == pytest.approx(1, abs=1e-6)

    def test_says_nothing_of_what_is_absent(
        self, predictor: Predictor, subset: tuple[str, ...]
    ) -> None:
        answer = predictor.predict({name: FULL[name] for name in subset})
        assert list(answer.modalities) == list(NAMES)
        for name, output in answer.modalities.items():
            if name in subset:
                assert output.present
                assert output.label in predictor.labels
                assert 0 < output.weight <= 1
            else:
                said = (output.present, output.label, output.confidence, output.weight)
                assert said == (False, None, None, 0.0)

    def test_runs_no_encoder_of_what_is_absent(
        self, spied: tuple[Predictor, dict[str, Spy]], subset: tuple[str, ...]
    ) -> None:
        predictor, spies = spied
        predictor.predict({name: FULL[name] for name in subset})
        assert {name for name, spy in spies.items() if spy.rows == [1]} == set(subset)
        assert all(spies[name].rows == [] for name in NAMES if name not in subset)


@pytest.mark.parametrize("name", NAMES)
def test_one_modality_alone_has_all_the_weight_and_the_say(predictor: Predictor, name: str) -> None:
    answer = predictor.predict({name: FULL[name]})
    said = answer.modalities[name]
    assert said.weight == 1
    assert (said.label, said.confidence) == (answer.label, pytest.approx(answer.confidence))


@pytest.mark.parametrize("value", [None, "", " \n", float("nan"), [], [None, ""]])
def test_an_empty_cell_is_an_absent_modality(predictor: Predictor, value: object) -> None:
    given_empty = predictor.predict({"audio": value, "image": value, "text": "seven"})
    assert given_empty == predictor.predict({"text": "seven"})


class TestBatches:
    def test_an_encoder_runs_only_on_the_rows_that_have_its_modality(
        self, spied: tuple[Predictor, dict[str, Spy]]
    ) -> None:
        predictor, spies = spied
        predictor.predict_many(POOL)
        assert {name: spy.rows for name, spy in spies.items()} == {name: [8] for name in NAMES}

    @given(st.lists(st.integers(0, len(POOL) - 1), min_size=2, max_size=20))
    @settings(max_examples=12, deadline=None, derandomize=True)
    def test_a_sample_is_answered_among_any_others_in_any_order_as_alone(
        self, predictor: Predictor, order: list[int]
    ) -> None:
        alone = {number: predictor.predict(POOL[number]) for number in set(order)}
        together = predictor.predict_many([POOL[number] for number in order])
        assert_same(together, [alone[number] for number in order])

    def test_recordings_of_different_lengths_are_answered_as_alone(
        self, any_length_bundle: Path
    ) -> None:
        predictor = Predictor.load(any_length_bundle, "cpu")
        lengths = (16_000, 9_000, 16_000, 30_000, 9_000)
        samples = [{"audio": recording(n, length)} for n, length in enumerate(lengths)]
        assert_same(predictor.predict_many(samples), [predictor.predict(s) for s in samples])

    def test_a_list_longer_than_one_batch_keeps_its_order(self, predictor: Predictor) -> None:
        samples: list[dict[str, Any]] = [{"text": TEXTS[n % len(TEXTS)]} for n in range(150)]
        samples[0] = samples[70] = {}
        answers = predictor.predict_many(samples)
        assert [n for n, a in enumerate(answers) if isinstance(a, InputError)] == [0, 70]
        good = [n for n in range(150) if n not in (0, 70)]
        alone = [predictor.predict({"text": text}) for text in TEXTS]
        assert_same([answers[n] for n in good], [alone[n % len(TEXTS)] for n in good])

    def test_no_samples_have_no_answers(self, predictor: Predictor) -> None:
        assert predictor.predict_many([]) == []


BAD: dict[str, tuple[Any, tuple[str, str | None]]] = {
    "nothing given": ({}, ("no_modality", None)),
    "nothing but empty cells": ({"audio": None, "text": " "}, ("no_modality", None)),
    "unknown modality": ({"text": "one", "video": b"x"}, ("unknown_field", "video")),
    "unknown modality, empty": ({"text": "one", "video": None}, ("unknown_field", "video")),
    "no mapping": (None, ("invalid_request", None)),
    "missing file": ({"audio": "nowhere.wav", "text": "one"}, ("unreadable", "audio")),
    "no bytes": ({"image": b""}, ("unreadable", "image")),
    "another type of file": ({"image": b"not an image"}, ("unsupported_type", "image")),
    "a list for one image": ({"image": [picture(0)]}, ("unreadable", "image")),
    "a number for text": ({"text": 7}, ("unreadable", "text")),
    "text over the limit": ({"text": "x" * 20_001}, ("too_large", "text")),
}


class TestBadSamples:
    @pytest.mark.parametrize("case", BAD)
    def test_each_is_an_error_in_its_place_and_fails_no_neighbour(
        self, predictor: Predictor, case: str
    ) -> None:
        sample, wanted = BAD[case]
        first, error, last = predictor.predict_many([POOL[6], sample, POOL[3]])
        assert isinstance(error, InputError)
        assert (error.code, error.field) == wanted
        assert_same([first, last], [predictor.predict(POOL[6]), predictor.predict(POOL[3])])

    @pytest.mark.parametrize("case", BAD)
    def test_predict_raises_what_predict_many_returns(
        self, predictor: Predictor, case: str
    ) -> None:
        sample, (code, field) = BAD[case]
        with pytest.raises(InputError) as raised:
            predictor.predict(sample)
        assert (raised.value.code, raised.value.field) == (code, field)

    @pytest.mark.parametrize("sample", [{}, {"video": b"x"}])
    def test_the_message_lists_what_there_is(
        self, predictor: Predictor, sample: dict[str, Any]
    ) -> None:
        with pytest.raises(InputError, match="audio, image, text"):
            predictor.predict(sample)

    def test_what_cannot_be_read_may_count_as_absent(self, predictor: Predictor) -> None:
        answer = predictor.predict({"image": b"junk", "text": "seven"}, on_unreadable="absent")
        assert_same([answer], [predictor.predict({"text": "seven"})])
        [warning] = answer.modalities["image"].warnings
        assert warning.startswith("unsupported_type: ")
        assert answer.modalities["text"].warnings == ()

    def test_nothing_readable_is_no_modality_and_says_what_was_wrong(
        self, predictor: Predictor
    ) -> None:
        with pytest.raises(InputError, match=r"image: unsupported_type: .*") as raised:
            predictor.predict({"image": b"junk"}, on_unreadable="absent")
        assert raised.value.code == "no_modality"

    def test_on_unreadable_is_one_of_two_words(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match="'error' or 'absent', not 'ignore'"):
            predictor.predict_many([], on_unreadable="ignore")  # type: ignore[arg-type]


class TestPredictionSet:
    @pytest.mark.parametrize("threshold", [0.0, 0.5, 0.74, 0.76, 0.8, 1.0])
    def test_holds_the_label_first_and_whatever_reaches_the_threshold(
        self, predictor: Predictor, threshold: float
    ) -> None:
        thresholds = {subset_name(subset): threshold for subset in SUBSETS}
        for answer in with_conformal(predictor, thresholds).predict_many(POOL):
            probabilities = answer.probabilities
            wanted = {k for k, p in probabilities.items() if p >= 1 - threshold} | {answer.label}
            assert set(answer.prediction_set) == wanted
            ranked = sorted(wanted, key=lambda label: -probabilities[label])
            assert list(answer.prediction_set) == ranked
            assert answer.prediction_set[0] == answer.label

    def test_each_subset_has_its_own_threshold_and_without_one_holds_every_label(
        self, predictor: Predictor
    ) -> None:
        answers = with_conformal(predictor, {"text": 0.0, "audio+text": 1.0}).predict_many(
            [{"text": "seven"}, {"audio": FULL["audio"], "text": "seven"}, {"image": FULL["image"]}]
        )
        assert [len(answer.prediction_set) for answer in answers] == [1, 4, 4]
