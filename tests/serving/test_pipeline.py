"""The order in which the pipeline decodes and preprocesses the samples of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimml import Prediction, Predictor
from dimml.decode import EAGER_PREPROCESS_BYTES
from serving.http.openapi import request_fields
from serving.http.parsing import URLENCODED, RawRequest
from serving.pipeline import Pipeline
from serving.settings import Settings

REQUESTS = [RawRequest(URLENCODED, "", b"text=" + text) for text in (b"one", b"two", b"three")]


@pytest.mark.parametrize(
    ("memory", "order"),
    [
        (0, ["decode"] * 3 + ["preprocess"] * 3),
        (2 * EAGER_PREPROCESS_BYTES, ["decode", "preprocess"] * 3),
    ],
    ids=["small", "large"],
)
def test_large_samples_are_preprocessed_one_after_the_other(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, memory: int, order: list[str]
) -> None:
    predictor = Predictor.load(tiny_bundle, providers="cpu")
    kind = predictor.kinds["text"]
    calls: list[str] = []

    def record_calls(name: str) -> Any:
        method = getattr(kind, name)

        def call(*arguments: Any) -> Any:
            calls.append(name)
            return method(*arguments)

        return call

    for name in ("decode", "preprocess"):
        monkeypatch.setattr(kind, name, record_calls(name))
    monkeypatch.setattr(kind, "memory", lambda _: memory)
    answers = Pipeline(predictor, request_fields(predictor), Settings(), threads=1).answer(REQUESTS)
    assert calls == order
    monkeypatch.undo()
    expected = [predictor.predict({"text": text}) for text in ("one", "two", "three")]
    contents = [answer.content for answer in answers]
    assert all(isinstance(content, Prediction) for content in contents)
    assert [content.label for content in contents] == [prediction.label for prediction in expected]
