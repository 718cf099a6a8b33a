"""The data path of a GPU, run on the CPU: threads, padded shapes and recorded shapes."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.errors import ProviderError
from dimml.modalities import Arrays
from dimml.runtime.cuda import GpuEncoder
from dimml.runtime.execution import GpuPath, load_data_path
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


def device_predictor(bundle: Path, gpu: GpuOptions | None = None) -> Predictor:
    """Return a predictor that uses the data path of a GPU, with the CPU as the device."""
    loaded = Bundle.load(bundle)
    kinds = loaded.kinds()
    graphs = [Graph(bundle / s.graph, "cpu") for s in loaded.manifest.modalities.values()]
    encoders = [
        GpuEncoder(graph, kind, gpu or GpuOptions())
        for graph, kind in zip(graphs, kinds.values(), strict=True)
    ]
    classifier = Graph(bundle / loaded.manifest.classifier, "cpu")
    path = GpuPath(encoders, classifier, loaded.manifest.feature_dim)
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


class TestGpuPath:
    @pytest.mark.parametrize("count", [1, 2, 7, 33, 100])
    def test_gpu_path_agrees_with_host_path(
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

    def test_recordings_of_every_length_agree(self, any_length_bundle: Path) -> None:
        batch = [{"audio": recording(0.3 + 0.05 * n, n)} for n in range(20)]
        on_device = device_predictor(any_length_bundle)
        on_host = Predictor.load(any_length_bundle, "cpu")
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

    def test_batch_larger_than_any_warmed_up_agrees(
        self, on_device: Predictor, on_host: Predictor
    ) -> None:
        text = [{"text": f"one {number}"} for number in range(300)]
        prepared: Any = on_device.preprocess(on_device.decode([(s, "error") for s in text]))
        actual = on_device.fuse(on_device.encode(prepared))
        expected = on_host.fuse(on_host.encode(prepared))
        np.testing.assert_allclose(actual.probabilities, expected.probabilities, atol=1e-5)

    def test_recorded_and_other_shapes_agree(self, tiny_bundle: Path, on_host: Predictor) -> None:
        on_device = device_predictor(tiny_bundle, GpuOptions(cuda_graphs=True))
        for size in (8, 5, 1):
            on_device.warm_up(size)
        for size in (1, 3, 8, 30):
            batch = samples(size)
            assert_all_agree(on_device.predict_many(batch), on_host.predict_many(batch))

    def test_failing_encoder_leaves_the_next_batch_correct(
        self, on_device: Predictor, on_host: Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path: Any = on_device._path
        batch = samples(20)
        with monkeypatch.context() as patch:
            patch.setattr(path._gpu_encoders[1], "_encode", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                on_device.predict_many(batch)
        assert_all_agree(on_device.predict_many(batch), on_host.predict_many(batch))


class TestGpuEncoder:
    """The text encoder of a bundle, with the CPU as the device."""

    def encoder(self, bundle: Path, cuda_graphs: bool = False) -> GpuEncoder:
        kind = Bundle.load(bundle).kinds()["text"]
        return GpuEncoder(
            Graph(bundle / "text.onnx", "cpu"), kind, GpuOptions(0, None, False, cuda_graphs)
        )

    def texts(self, bundle: Path, rows: int) -> list[Arrays]:
        kind = Bundle.load(bundle).kinds()["text"]
        return [kind.preprocess(kind.decode("one two"))] * rows

    def test_warm_up_and_runs_share_one_thread(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = self.encoder(tiny_bundle)
        threads = []
        run = encoder._run

        def spy(*arguments: Any) -> np.ndarray:
            threads.append(threading.get_ident())
            return run(*arguments)

        monkeypatch.setattr(encoder, "_run", spy)
        encoder.warm_up(2)
        warm_up_runs = len(threads)
        items = self.texts(tiny_bundle, 2)
        with ThreadPoolExecutor(3) as callers:
            for future in list(callers.map(lambda _: encoder.submit(items), range(6))):
                assert future.result().shape[0] == 2
        assert len(threads) == warm_up_runs + 6
        assert len(set(threads)) == 1
        assert threading.get_ident() not in threads

    def test_batches_are_padded_to_a_power_of_two(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = self.encoder(tiny_bundle)
        shapes = []
        run = encoder._run
        monkeypatch.setattr(
            encoder, "_run", lambda inputs: shapes.append(inputs["input_ids"].shape) or run(inputs)
        )
        rows = [len(encoder.submit(self.texts(tiny_bundle, n)).result()) for n in (1, 3, 4, 33)]
        assert rows == [1, 3, 4, 33]
        assert [shape[0] for shape in shapes] == [1, 4, 4, 64]

    def test_each_warmed_up_shape_has_a_cuda_graph_of_its_own(self, tiny_bundle: Path) -> None:
        encoder = self.encoder(tiny_bundle, cuda_graphs=True)
        for size in (4, 2, 1, 3):
            encoder.warm_up(size)
        shapes = len(Bundle.load(tiny_bundle).kinds()["text"].warm_inputs(1))
        ids = [
            recorded.options.get_run_config_entry("gpu_graph_id")
            for recorded in encoder._cuda_graphs.values()
        ]
        assert ids == [str(number) for number in range(1, 3 * shapes + 1)]

    def test_shapes_that_were_not_warmed_up_are_not_recorded(self, tiny_bundle: Path) -> None:
        encoder = self.encoder(tiny_bundle, cuda_graphs=True)
        encoder.warm_up(1)
        before = dict(encoder._cuda_graphs)
        encoder.submit(self.texts(tiny_bundle, 7)).result()
        assert encoder._cuda_graphs == before
        assert encoder._unrecorded.get_run_config_entry("gpu_graph_id") == "-1"

    def test_longest_and_shortest_texts_are_warmed_up_first(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = self.encoder(tiny_bundle)
        lengths: list[int] = []
        monkeypatch.setattr(
            encoder, "_run", lambda inputs, _: lengths.append(inputs["input_ids"].shape[1])
        )
        encoder.warm_up(1)
        order = list(dict.fromkeys(lengths))
        assert order[0] == max(order)
        assert order[1:] == sorted(order[1:])


@pytest.mark.parametrize(
    ("gpu", "precision", "message"),
    [
        (GpuOptions(cuda_graphs=True), "fp32", "turn cuda_graphs off, or use providers=cuda"),
        (GpuOptions(), "fp16", "export the bundle in fp32, or use providers=cuda"),
    ],
)
def test_what_tensorrt_lacks_is_an_error(
    tiny_bundle: Path, gpu: GpuOptions, precision: str, message: str
) -> None:
    bundle = Bundle.load(tiny_bundle)
    manifest = bundle.manifest.model_copy(update={"precision": precision})
    with pytest.raises(ProviderError, match=message):
        load_data_path(replace(bundle, manifest=manifest), bundle.kinds(), "tensorrt", 1, gpu)


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
    for size in (64, 8, 1):
        on_gpu.warm_up(size)
    batch = samples(100)
    expected = on_host.predict_many(batch)
    # Callers have threads of their own, and each encoder replays its graphs in its own thread.
    with ThreadPoolExecutor(3) as callers:
        for predictions in callers.map(on_gpu.predict_many, [batch] * 6):
            assert_all_agree(predictions, expected, tolerance=1e-3)
