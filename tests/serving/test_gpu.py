"""The service on a GPU, over HTTP. Without a GPU these tests are skipped, with the reason."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import soundfile

from dimml import Predictor
from dimml.machine import cuda_devices
from dimml.samples import subset_name, subsets

NAMES = ("audio", "image", "text")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "graphs"])
def server(request: pytest.FixtureRequest, tiny_bundle: Path, open_server: Any) -> Iterator[Any]:
    settings = {"workers": cuda_devices(), "cuda_graphs": int(request.param)}
    with open_server(tiny_bundle, providers="cuda", **settings) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def sample() -> dict[str, Any]:
    """Return a sample of every modality with seeded random content."""
    random = np.random.default_rng(0)
    audio, image = io.BytesIO(), io.BytesIO()
    soundfile.write(audio, 0.1 * random.standard_normal(16_000), 16_000, format="WAV")
    PIL.Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(image, "PNG")
    return {"audio": audio.getvalue(), "image": image.getvalue(), "text": "seven"}


@pytest.mark.parametrize(
    ("provider", "max_batch", "sizes"),
    [("cpu", 16, [1]), ("cuda", 8, [8, 4, 2, 1]), ("tensorrt", 6, [6, 4, 2, 1])],
)
def test_largest_batch_is_warmed_up_first(provider: str, max_batch: int, sizes: list[int]) -> None:
    from serving.service import _warm_up_sizes

    assert _warm_up_sizes(provider, max_batch) == sizes


@pytest.mark.gpu
@pytest.mark.parametrize("subset", list(subsets(NAMES)), ids=subset_name)
def test_every_subset_has_the_prediction_of_the_cpu(
    server: Any, tiny_bundle: Path, sample: dict[str, Any], subset: tuple[str, ...]
) -> None:
    values = {name: sample[name] for name in subset}
    files = {name: value for name, value in values.items() if name != "text"}
    texts = {name: value for name, value in values.items() if name == "text"}
    response = server.client.post("/predict", files=files or None, data=texts)
    assert response.status_code == 200
    expected = Predictor.load(tiny_bundle, "cpu").predict(values)
    assert response.json()["probabilities"] == pytest.approx(dict(expected.probabilities), abs=1e-3)
    for name, modality in response.json()["modalities"].items():
        assert modality["present"] == (name in subset)
        assert modality["weight"] == pytest.approx(expected.modalities[name].weight, abs=1e-3)


@pytest.mark.gpu
def test_bundle_page_and_metrics_name_cuda(server: Any) -> None:
    assert server.client.get("/bundle").json()["provider"] == "cuda"
    metrics = server.client.get("/metrics").text
    assert 'dimml_provider_info{provider="cuda"} 1.0' in metrics
    assert 'provider="cpu"' not in metrics


@pytest.mark.gpu
def test_each_gpu_has_one_worker(tiny_bundle: Path, open_server: Any) -> None:
    with open_server(tiny_bundle, providers="auto", workers="") as server:
        server.wait_until_ready()
        assert len(server.workers) == cuda_devices()
        assert server.client.get("/bundle").json()["provider"] == "cuda"
