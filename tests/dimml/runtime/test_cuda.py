"""The path of a GPU, run on the CPU: buffers, bindings, and the gathering of features."""

from __future__ import annotations

import io
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
    """Every subset in turn; no two alike."""
    given = []
    for number in range(count):
        random = np.random.default_rng(number)
        whole = {
            "audio": recording(1.0, number),
            "image": random.integers(0, 256, (32, 32, 3), np.uint8),
            "text": " ".join(["seven", "one", "two"] * (1 + number % 5)),
        }
        subset = list(subsets(NAMES))[number % 7]
        given.append({name: whole[name] for name in subset})
    return given


def on_device(bundle: Path, device: str = "cpu") -> Predictor:
    """A predictor that takes the path of a GPU, with the CPU in its place."""
    loaded = Bundle.load(bundle)
    kinds = loaded.kinds()
    encoders = [Graph(bundle / s.graph, "cpu") for s in loaded.manifest.modalities.values()]
    classifier = Graph(with_feature_gather(onnx.load(bundle / loaded.manifest.classifier)), "cpu")
    dimension = loaded.manifest.feature_dim
    path = DevicePath(encoders, classifier, list(kinds.values()), dimension, Device(device))
    return Predictor(loaded, kinds, path, "cpu")


def agree(found: Any, expected: Any, within: float = 1e-5) -> None:
    assert isinstance(found, Prediction)
    assert found.probabilities == pytest.approx(dict(expected.probabilities), abs=within)
    for name, said in found.modalities.items():
        assert replace(said, confidence=None, weight=0.0) == replace(
            expected.modalities[name], confidence=None, weight=0.0
        )
        assert said.weight == pytest.approx(expected.modalities[name].weight, abs=within)


@pytest.fixture(scope="module")
def ours(tiny_bundle: Path) -> Predictor:
    return on_device(tiny_bundle)


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> Predictor:
    return Predictor.load(tiny_bundle, "cpu")


class TestDevicePath:
    @pytest.mark.parametrize("count", [1, 2, 7, 33, 100])
    def test_answers_are_those_of_the_plain_path(
        self, ours: Predictor, plain: Predictor, count: int
    ) -> None:
        given = samples(count)
        for found, expected in zip(
            ours.predict_many(given), plain.predict_many(given), strict=True
        ):
            agree(found, expected)

    @pytest.mark.parametrize("subset", list(subsets(NAMES)), ids=subset_name)
    def test_buffers_of_a_batch_before_leave_no_trace(
        self, ours: Predictor, plain: Predictor, subset: tuple[str, ...]
    ) -> None:
        ours.predict_many(samples(50))
        sample = {name: samples(7)[6][name] for name in subset}
        agree(ours.predict(sample), plain.predict(sample))

    def test_recordings_of_more_lengths_than_buffers_are_kept(
        self, any_length_bundle: Path
    ) -> None:
        given = [{"audio": recording(0.3 + 0.05 * n, n)} for n in range(2 * MAX_CACHED_SHAPES)]
        ours, plain = on_device(any_length_bundle), Predictor.load(any_length_bundle, "cpu")
        for _ in range(2):
            for found, expected in zip(
                ours.predict_many(given), plain.predict_many(given), strict=True
            ):
                agree(found, expected)

    def test_threads_do_not_mix_their_features(self, ours: Predictor, plain: Predictor) -> None:
        given = samples(60)
        expected = plain.predict_many(given)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda n: ours.predict_many(given[n:]), range(16)))
        for start, found in enumerate(answers):
            for one, other in zip(found, expected[start:], strict=True):
                agree(one, other)

    def test_a_batch_may_outgrow_what_was_staged(self, ours: Predictor, plain: Predictor) -> None:
        text = [{"text": f"one {number}"} for number in range(300)]
        ready: Any = ours.preprocess(ours.decode([(sample, "error") for sample in text]))
        found = ours.fuse(ours.encode(ready))
        expected = plain.fuse(plain.encode(ready))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)

    def test_warming_up_shows_every_length_of_text(self, ours: Predictor, plain: Predictor) -> None:
        ours.warm_up(5)
        agree(ours.predict({"text": "seven"}), plain.predict({"text": "seven"}))


class TestAuto:
    def test_sessions_without_cuda_are_loaded_for_the_cpu(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("dimml.predictor.choose_provider", lambda _: "cuda")
        with caplog.at_level("INFO", "dimml"):
            assert Predictor.load(tiny_bundle).provider == "cpu"
        assert caplog.messages[-1].startswith("provider cpu: CUDA was asked for and ")
        with pytest.raises(ProviderError):
            Predictor.load(tiny_bundle, "cuda")


@pytest.mark.gpu
class TestCuda:
    @pytest.mark.parametrize("cuda_graphs", [False, True])
    def test_it_agrees_with_the_cpu(
        self, tiny_bundle: Path, plain: Predictor, cuda_graphs: bool
    ) -> None:
        ours = Predictor.load(tiny_bundle, "cuda", gpu=GpuOptions(cuda_graphs=cuda_graphs))
        assert ours.provider == "cuda"
        for size in (1, 8, 64):
            ours.warm_up(size)
        given = samples(100)
        for _ in range(3):
            for found, expected in zip(
                ours.predict_many(given), plain.predict_many(given), strict=True
            ):
                agree(found, expected, within=1e-3)
