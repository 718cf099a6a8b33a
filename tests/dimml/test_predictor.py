"""The predictor: every subset, every position in a batch, and invalid samples."""

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
from dimml.outputs import FusedBatch
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
"""Two samples of every subset, with texts of different lengths."""


class Spy(Graph):
    """A graph that records the number of rows of each run."""

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
    """Return a copy of the predictor whose bundle has these thresholds on 1 - probability."""
    return with_limits(predictor, Conformal(coverage=0.9, thresholds=dict(thresholds)))


def with_limits(predictor: Predictor, conformal: Conformal) -> Predictor:
    """Return a copy of the predictor whose bundle has these conformal limits."""
    manifest = predictor.bundle.manifest.model_copy(update={"conformal": conformal})
    twin = copy(predictor)
    twin.bundle = replace(predictor.bundle, manifest=manifest)
    return twin


def assert_same(predictions: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for prediction, other in zip(predictions, expected, strict=True):
        assert prediction.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        for name, output in prediction.modalities.items():
            assert output.present == other.modalities[name].present
            assert output.weight == pytest.approx(other.modalities[name].weight, abs=1e-5)


@pytest.mark.parametrize("subset", SUBSETS, ids=subset_name)
class TestEverySubset:
    def test_probabilities_and_weights_sum_to_one(
        self, predictor: Predictor, subset: tuple[str, ...]
    ) -> None:
        answer = predictor.predict({name: FULL[name] for name in subset})
        assert list(answer.probabilities) == list(predictor.labels)
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert answer.confidence == max(answer.probabilities.values())
        assert answer.probabilities[answer.label] == answer.confidence
        assert sum(m.weight for m in answer.modalities.values()) == pytest.approx(1, abs=1e-6)

    def test_absent_modality_has_no_output(
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
                assert (output.present, output.weight) == (False, 0.0)
                assert (output.label, output.confidence) == (None, None)

    def test_encoder_of_an_absent_modality_does_not_run(
        self, spied: tuple[Predictor, dict[str, Spy]], subset: tuple[str, ...]
    ) -> None:
        predictor, spies = spied
        predictor.predict({name: FULL[name] for name in subset})
        assert {name for name, spy in spies.items() if spy.rows == [1]} == set(subset)
        assert all(spies[name].rows == [] for name in NAMES if name not in subset)


@pytest.mark.parametrize("name", NAMES)
def test_single_modality_has_all_the_weight(predictor: Predictor, name: str) -> None:
    answer = predictor.predict({name: FULL[name]})
    output = answer.modalities[name]
    assert output.weight == 1
    assert output.label == answer.label
    assert output.confidence == pytest.approx(answer.confidence)


@pytest.mark.parametrize("value", [None, "", " \n", float("nan"), [], [None, ""]])
def test_empty_value_is_an_absent_modality(predictor: Predictor, value: object) -> None:
    with_empty_values = predictor.predict({"audio": value, "image": value, "text": "seven"})
    assert with_empty_values == predictor.predict({"text": "seven"})


class TestBatches:
    def test_encoder_runs_only_on_rows_with_its_modality(
        self, spied: tuple[Predictor, dict[str, Spy]]
    ) -> None:
        predictor, spies = spied
        predictor.predict_many(POOL)
        # A call of long recordings takes fewer rows than the batch has.
        assert {name: sum(spy.rows) for name, spy in spies.items()} == dict.fromkeys(NAMES, 8)

    @given(st.lists(st.integers(0, len(POOL) - 1), min_size=2, max_size=20))
    @settings(max_examples=12, deadline=None, derandomize=True)
    def test_prediction_does_not_depend_on_the_batch(
        self, predictor: Predictor, order: list[int]
    ) -> None:
        alone = {number: predictor.predict(POOL[number]) for number in set(order)}
        in_batch = predictor.predict_many([POOL[number] for number in order])
        assert_same(in_batch, [alone[number] for number in order])

    def test_recordings_of_different_lengths_do_not_affect_each_other(
        self, any_length_bundle: Path
    ) -> None:
        predictor = Predictor.load(any_length_bundle, "cpu")
        lengths = (16_000, 9_000, 16_000, 30_000, 9_000)
        samples = [{"audio": recording(n, length)} for n, length in enumerate(lengths)]
        assert_same(predictor.predict_many(samples), [predictor.predict(s) for s in samples])

    def test_list_longer_than_one_batch_keeps_its_order(self, predictor: Predictor) -> None:
        samples: list[dict[str, Any]] = [{"text": TEXTS[n % len(TEXTS)]} for n in range(150)]
        samples[0] = samples[70] = {}
        answers = predictor.predict_many(samples)
        assert [n for n, a in enumerate(answers) if isinstance(a, InputError)] == [0, 70]
        valid = [n for n in range(150) if n not in (0, 70)]
        alone = [predictor.predict({"text": text}) for text in TEXTS]
        assert_same([answers[n] for n in valid], [alone[n % len(TEXTS)] for n in valid])

    def test_empty_list_has_no_predictions(self, predictor: Predictor) -> None:
        assert predictor.predict_many([]) == []


def test_text_over_the_limit_is_cut_with_a_warning(predictor: Predictor) -> None:
    long, cut = predictor.predict_many([{"text": "one " * 6_000}, {"text": "one " * 5_000}])
    assert isinstance(long, Prediction)
    assert isinstance(cut, Prediction)
    assert long.probabilities == pytest.approx(cut.probabilities, abs=1e-5)
    expected = "the text has 24,000 characters; only the first 20,000 were read"
    assert long.modalities["text"].warnings[0] == expected


INVALID: dict[str, tuple[Any, tuple[str, str | None]]] = {
    "empty sample": ({}, ("no_modality", None)),
    "only empty values": ({"audio": None, "text": " "}, ("no_modality", None)),
    "unknown modality": ({"text": "one", "video": b"x"}, ("unknown_field", "video")),
    "unknown empty modality": ({"text": "one", "video": None}, ("unknown_field", "video")),
    "not a mapping": (None, ("invalid_request", None)),
    "missing file": ({"audio": "nowhere.wav", "text": "one"}, ("unreadable", "audio")),
    "empty file": ({"image": b""}, ("unreadable", "image")),
    "not an image": ({"image": b"not an image"}, ("unsupported_type", "image")),
    "list instead of one image": ({"image": [picture(0)] * 2}, ("unreadable", "image")),
    "number instead of text": ({"text": 7}, ("unreadable", "text")),
}


class TestInvalidSamples:
    @pytest.mark.parametrize("case", INVALID)
    def test_invalid_sample_does_not_affect_the_others(
        self, predictor: Predictor, case: str
    ) -> None:
        sample, expected = INVALID[case]
        first, error, last = predictor.predict_many([POOL[6], sample, POOL[3]])
        assert isinstance(error, InputError)
        assert (error.code, error.field) == expected
        assert_same([first, last], [predictor.predict(POOL[6]), predictor.predict(POOL[3])])

    @pytest.mark.parametrize("case", INVALID)
    def test_predict_raises_the_error_of_predict_many(
        self, predictor: Predictor, case: str
    ) -> None:
        sample, (code, field) = INVALID[case]
        with pytest.raises(InputError) as raised:
            predictor.predict(sample)
        assert (raised.value.code, raised.value.field) == (code, field)

    @pytest.mark.parametrize("sample", [{}, {"video": b"x"}])
    def test_error_lists_the_modalities(self, predictor: Predictor, sample: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="audio, image, text"):
            predictor.predict(sample)

    def test_unreadable_value_can_count_as_absent(self, predictor: Predictor) -> None:
        answer = predictor.predict({"image": b"junk", "text": "seven"}, on_unreadable="absent")
        assert_same([answer], [predictor.predict({"text": "seven"})])
        [warning] = answer.modalities["image"].warnings
        assert warning.startswith("unsupported_type: ")
        assert answer.modalities["text"].warnings == ()

    def test_only_unreadable_values_are_no_modality(self, predictor: Predictor) -> None:
        with pytest.raises(InputError, match=r"image: unsupported_type: .*") as raised:
            predictor.predict({"image": b"junk"}, on_unreadable="absent")
        assert raised.value.code == "no_modality"

    def test_unknown_on_unreadable_is_rejected(self, predictor: Predictor) -> None:
        with pytest.raises(UsageError, match="'error' or 'absent', not 'ignore'"):
            predictor.predict_many([], on_unreadable="ignore")  # type: ignore[arg-type]


class TestPredictionSet:
    @pytest.mark.parametrize("threshold", [0.0, 0.5, 0.74, 0.76, 0.8, 1.0])
    def test_prediction_set_holds_the_label_and_all_above_the_threshold(
        self, predictor: Predictor, threshold: float
    ) -> None:
        thresholds = {subset_name(subset): threshold for subset in SUBSETS}
        for answer in with_conformal(predictor, thresholds).predict_many(POOL):
            probabilities = answer.probabilities
            expected = {k for k, p in probabilities.items() if p >= 1 - threshold} | {answer.label}
            assert set(answer.prediction_set) == expected
            ranked = sorted(expected, key=lambda label: -probabilities[label])
            assert list(answer.prediction_set) == ranked
            assert answer.prediction_set[0] == answer.label

    def test_subset_without_a_threshold_has_every_label_in_its_set(
        self, predictor: Predictor
    ) -> None:
        answers = with_conformal(predictor, {"text": 0.0, "audio+text": 1.0}).predict_many(
            [{"text": "seven"}, {"audio": FULL["audio"], "text": "seven"}, {"image": FULL["image"]}]
        )
        assert [len(answer.prediction_set) for answer in answers] == [1, 4, 4]

    def test_smallest_probability_replaces_the_threshold(self, predictor: Predictor) -> None:
        [answer] = predictor.predict_many([{"text": "seven"}])
        second = sorted(answer.probabilities.values())[-2]
        limits = Conformal(
            coverage=0.9, thresholds={"text": 1.0}, min_probabilities={"text": second}
        )
        [limited] = with_limits(predictor, limits).predict_many([{"text": "seven"}])
        assert len(limited.prediction_set) == 2


@pytest.mark.parametrize("limit", [1e-7, 1e-12, 1e-30])
def test_tiny_limit_survives_the_manifest(predictor: Predictor, limit: float) -> None:
    written = Conformal(coverage=0.99, min_probabilities={"text": limit})
    read = Conformal.model_validate_json(written.model_dump_json())
    bundle = with_limits(predictor, read).bundle
    probabilities = np.array([[1, limit * 2, limit, limit * 0.9]], np.float32)
    outputs = [probabilities, np.ones((1, 3), np.float32), np.zeros((1, 3, 4), np.float32)]
    fused = FusedBatch.of(bundle, np.array([[False, False, True]]), outputs)
    assert fused.set_sizes.tolist() == [3]
