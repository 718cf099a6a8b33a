"""The interaction head in predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.samples import subsets
from tests.conftest import INTERACTION_SHARE


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


@pytest.fixture(scope="module")
def example(predictor: Predictor) -> dict[str, Any]:
    return {name: kind.example() for name, kind in predictor.kinds.items()}


def test_answer_tells_the_share_of_the_interaction_head(
    predictor: Predictor, example: dict[str, Any]
) -> None:
    for subset in subsets(list(example)):
        prediction = predictor.predict({name: example[name] for name in subset})
        assert prediction.interaction == (INTERACTION_SHARE if len(subset) > 1 else 0)
        weights = {name: output.weight for name, output in prediction.modalities.items()}
        assert sum(weights.values()) == pytest.approx(1, abs=1e-6)
        for name in subset:
            # The head's share is divided equally.
            assert weights[name] >= prediction.interaction / len(subset) - 1e-6
        assert all(weights[name] == 0 for name in example if name not in subset)


def test_one_modality_answers_as_it_says_alone(
    predictor: Predictor, example: dict[str, Any]
) -> None:
    for name, value in example.items():
        prediction = predictor.predict({name: value})
        alone = prediction.modalities[name]
        assert (alone.label, alone.weight) == (prediction.label, 1.0)
        assert alone.confidence == pytest.approx(prediction.confidence, abs=1e-6)


def test_manifest_names_the_share_of_each_subset(tiny_bundle: Path) -> None:
    manifest = Bundle.load(tiny_bundle).manifest
    pairs = {"audio+image", "audio+text", "image+text", "audio+image+text"}
    assert manifest.interaction == dict.fromkeys(pairs, INTERACTION_SHARE)
    assert manifest.feature_dim == 32


def test_prediction_as_json_has_the_share(predictor: Predictor, example: dict[str, Any]) -> None:
    assert predictor.predict(example).to_dict()["interaction"] == INTERACTION_SHARE
