"""A batch on the CPU is computed in several calls of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimml.bundle import Bundle
from dimml.modalities import Image, Text
from dimml.predictor import Predictor
from dimml.runtime.execution import HostPath
from dimml.runtime.session import Graph
from tests.dimml.test_predictor import NAMES, POOL, TEXTS, Spy, assert_same


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a call to two images of the tiny bundle, and to 16 tokens."""
    monkeypatch.setattr(Image, "cpu_call_size", 2 * 3 * 32 * 32)
    monkeypatch.setattr(Text, "cpu_call_size", 16)


@pytest.mark.usefixtures("small_calls")
def test_samples_of_several_calls_keep_their_answers(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    spies = {name: Spy(tiny_bundle / f"{name}.onnx") for name in NAMES}
    classifier = Graph(tiny_bundle / "classifier.onnx", "cpu")
    path = HostPath(list(spies.values()), classifier, bundle.manifest.feature_dim)
    answers: list[Any] = Predictor(bundle, bundle.kinds(), path, "cpu").predict_many(POOL)

    assert {name: sum(spy.rows) for name, spy in spies.items()} == dict.fromkeys(NAMES, 8)
    assert len(spies["text"].rows) > 1
    assert len(spies["image"].rows) > 1
    whole = Predictor.load(tiny_bundle, "cpu")
    assert_same(answers, [whole.predict(sample) for sample in POOL])


@pytest.mark.usefixtures("small_calls")
def test_order_of_texts_by_length_does_not_reach_the_answers(tiny_bundle: Path) -> None:
    predictor = Predictor.load(tiny_bundle, "cpu")
    samples = [{"text": TEXTS[number % len(TEXTS)]} for number in range(30)]
    answers: list[Any] = predictor.predict_many(samples)
    assert_same(answers, [predictor.predict(sample) for sample in samples])
