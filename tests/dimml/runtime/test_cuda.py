"""The data path of a GPU, run on the CPU: buffers, bindings and the gathering of features."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.errors import ProviderError
from dimml.runtime.cuda import MAX_CACHED_SHAPES, Device, with_feature_gather
from dimml.runtime.execution import DevicePath
from dimml.runtime.providers import GpuOptions
from dimml.runtime.session import Graph
from dimml.samples import Prediction, subset_name, subsets

NAMES = ("audio", "image", "text")


def recording(seconds: float, seed: int) -> bytes:
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds))
    soundfile.write(file, noise, 16_000, format="WAV")
    return file.getvalue()


def samples(count: int) -> list[dict[str, Any]]:
    """Return distinct samples of every subset in turn."""
    batch = []
    for number in range(count):
        random = np.random.default_rng(number)
        full = {
            "audio": recording(1.0, number),
            "image": random.integers(0, 256, (32, 32, 3), np.uint8),
            "text": " ".join(["seven", "one", "two"] * (1 + number % 5)),
        }
        subset = list(subsets(NAMES))[number % 7]
        batch.append({name: full[name] for name in subset})
    return batch


def device_predictor(bundle: Path, device: str = "cpu") -> Predictor:
    """Return a predictor that uses the data path of a GPU, with the CPU as the device."""
    loaded = Bundle.load(bundle)
    kinds = loaded.kinds()
    encoders = [Graph(bundle / s.graph, "cpu") for s in loaded.manifest.modalities.values()]
    classifier = Graph(with_feature_gather(onnx.load(bundle / loaded.manifest.classifier)), "cpu")
    dimension = loaded.manifest.feature_dim
    path = DevicePath(encoders, classifier, list(kinds.values()), dimension, Device(device))
    return Predictor(loaded, kinds, path, "cpu")


def assert_agree(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert isinstance(actual, Prediction)
    assert actual.probabilities == pytest.approx(dict(expected.probabilities), abs=tolerance)
    for name, output in actual.modalities.items():
        other = expected.modalities[name]
        assert replace(output, confidence=None, weight=0.0) == replace(
            other, confidence=None, weight=0.0
        )
        assert output.weight == pytest.approx(other.weight, abs=tolerance)


def assert_all_agree(
    actual: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-5
) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_agree(one, other, tolerance)


@pytest.fixture(scope="module")
def on_device(tiny_bundle: Path) -> Predictor:
    return device_predictor(tiny_bundle)


@pytest.fixture(scope="module")
def on_host(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, "cpu")


class TestDevicePath:
    @pytest.mark.parametrize("count", [1, 2, 7, 33, 100])
    def test_device_path_agrees_with_host_path(
        self, on_device: Predictor, on_host: Predictor, count: int
    ) -> None:
        batch = samples(count)
        assert_all_agree(on_device.predict_many(batch), on_host.predict_many(batch))

    @pytest.mark.parametrize("subset", list(subsets(NAMES)), ids=subset_name)
    def test_previous_batch_does_not_affect_a_prediction(
        self, on_device: Predictor, on_host: Predictor, subset: tuple[str, ...]
    ) -> None:
        on_device.predict_many(samples(50))
        sample = {name: samples(7)[6][name] for name in subset}
        assert_agree(on_device.predict(sample), on_host.predict(sample))

    def test_more_shapes_than_cached_buffers_agree(self, any_length_bundle: Path) -> None:
        batch = [{"audio": recording(0.3 + 0.05 * n, n)} for n in range(2 * MAX_CACHED_SHAPES)]
        on_device = device_predictor(any_length_bundle)
        on_host = Predictor.load(any_length_bundle, "cpu")
        for _ in range(2):
            assert_all_agree(on_device.predict_many(batch), on_host.predict_many(batch))

    def test_concurrent_batches_agree_with_host_path(
        self, on_device: Predictor, on_host: Predictor
    ) -> None:
        batch = samples(60)
        expected = on_host.predict_many(batch)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda n: on_device.predict_many(batch[n:]), range(16)))
        for start, predictions in enumerate(results):
            assert_all_agree(predictions, expected[start:])

    def test_batch_larger_than_the_staging_array_agrees(
        self, on_device: Predictor, on_host: Predictor
    ) -> None:
        text = [{"text": f"one {number}"} for number in range(300)]
        prepared: Any = on_device.preprocess(on_device.decode([(s, "error") for s in text]))
        actual = on_device.fuse(on_device.encode(prepared))
        expected = on_host.fuse(on_host.encode(prepared))
        np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-5)

    def test_prediction_after_warm_up_agrees(
        self, on_device: Predictor, on_host: Predictor
    ) -> None:
        on_device.warm_up(5)
        assert_agree(on_device.predict({"text": "seven"}), on_host.predict({"text": "seven"}))


def test_auto_falls_back_to_the_cpu_if_cuda_sessions_fail(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dimml.predictor.choose_provider", lambda _: "cuda")
    with caplog.at_level("INFO", "dimml"):
        assert Predictor.load(tiny_bundle).provider == "cpu"
    assert caplog.messages[-1].startswith("provider cpu: CUDA was requested, but ")
    with pytest.raises(ProviderError):
        Predictor.load(tiny_bundle, "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_cuda_agrees_with_the_cpu(tiny_bundle: Path, on_host: Predictor, cuda_graphs: bool) -> None:
    on_gpu = Predictor.load(tiny_bundle, "cuda", gpu=GpuOptions(cuda_graphs=cuda_graphs))
    assert on_gpu.provider == "cuda"
    for size in (1, 8, 64):
        on_gpu.warm_up(size)
    batch = samples(100)
    for _ in range(3):
        predictions = on_gpu.predict_many(batch)
        assert_all_agree(predictions, on_host.predict_many(batch), tolerance=1e-3)
