"""Features in predictions: the numbers that the shared classifier reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from dimml import InputError, Predictor
from dimml.bundle import MANIFEST, Bundle
from dimml.details import FEATURES_VERSION, DetailedPrediction
from dimml.errors import BundleError, UsageError
from tests.dimml.runtime.test_cuda import device_predictor, samples

D = 16


@pytest.fixture(scope="module")
def predictor(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, providers="cpu")


def graph_features(predictor: Predictor, name: str, value: Any) -> np.ndarray:
    """Return what the graph of an encoder computes for one value, with onnxruntime alone."""
    bundle, kind = predictor.bundle, predictor.kinds[name]
    session = onnxruntime.InferenceSession(bundle.path / bundle.manifest.modalities[name].graph)
    inputs = kind.collate([kind.preprocess(kind.decode(value))])
    [[features]] = session.run(["features"], dict(inputs))
    return np.asarray(features)


def change_manifest(bundle: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(bundle, folder)
    document = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(document))
    return folder


def test_features_equal_the_first_outputs_of_the_graphs(predictor: Predictor) -> None:
    batch = samples(14)
    for sample, prediction in zip(batch, predictor.predict_many(batch, features=True), strict=True):
        assert isinstance(prediction, DetailedPrediction)
        assert prediction.features.version == FEATURES_VERSION == 1
        assert list(prediction.features.values) == list(predictor.kinds)
        for name, values in prediction.features.values.items():
            if name not in sample:
                assert values is None
                continue
            expected = graph_features(predictor, name, sample[name])
            assert len(expected) == 2 * D  # the others are those of the interaction head
            assert values == pytest.approx(expected[:D], abs=1e-5)


def test_features_leave_the_prediction_as_it_is(predictor: Predictor) -> None:
    plain = predictor.predict(samples(7)[6])
    prediction = predictor.predict(samples(7)[6], features=True)
    assert not isinstance(plain, DetailedPrediction)
    document = prediction.to_dict()
    features = document.pop("features")
    assert document.pop("without") is None
    assert document == plain.to_dict()
    assert json.loads(json.dumps(features))["version"] == 1
    assert [len(values) for values in features["values"].values()] == [D] * 3


def test_errors_keep_their_places_among_features(predictor: Predictor) -> None:
    first, error, last = predictor.predict_many(
        [{"text": "one"}, {}, {"text": "two"}], features=True
    )
    assert isinstance(error, InputError)
    for prediction, text in ((first, "one"), (last, "two")):
        assert prediction == predictor.predict({"text": text}, features=True)


def test_features_of_a_device_agree_with_those_of_the_host(
    tiny_bundle: Path, predictor: Predictor
) -> None:
    batch = samples(20)
    on_device = device_predictor(tiny_bundle).predict_many(batch, features=True)
    for one, other in zip(on_device, predictor.predict_many(batch, features=True), strict=True):
        assert isinstance(one, DetailedPrediction)
        assert isinstance(other, DetailedPrediction)
        for name, values in other.features.values.items():
            if values is None:
                assert one.features.values[name] is None
            else:
                assert one.features.values[name] == pytest.approx(values, abs=1e-5)


def test_bundle_of_an_earlier_version_has_no_features(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = change_manifest(tiny_bundle, tmp_path / "old", late_dim=None)
    predictor = Predictor.load(folder, providers="cpu")
    assert predictor.predict({"text": "one"}).label
    with pytest.raises(UsageError, match="export the run again"):
        predictor.predict({"text": "one"}, features=True)


def test_manifest_with_more_late_features_than_features_is_rejected(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    assert Bundle.load(tiny_bundle).manifest.late_dim == D
    with pytest.raises(BundleError, match="late_dim"):
        Bundle.load(change_manifest(tiny_bundle, tmp_path / "wrong", late_dim=2 * D + 1))
