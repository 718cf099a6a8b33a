"""Export writes a bundle only if ONNX and PyTorch agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dimml.bundle import Bundle, Manifest
from dimml.errors import ParityError
from dimml.modalities import Arrays, Audio, Kind
from dimml.nn.encoders import LogMel, build_encoder
from dimml.nn.model import MultimodalModel
from dimml.runtime.session import Graph
from export.bundle import export_run
from export.onnx import export_encoder, write_bundle
from export.parity import parity_check

NAMES = ("image", "text")


@dataclass(frozen=True)
class Exported:
    """A model, its bundle, and the samples on which `parity_check` accepted the bundle."""

    model: MultimodalModel
    bundle: Bundle
    kinds: Mapping[str, Kind]
    samples: Mapping[str, list[Arrays]]


def samples_of(kinds: Mapping[str, Kind]) -> dict[str, list[Arrays]]:
    random = np.random.default_rng(0)
    values: dict[str, list[Any]] = {
        "image": [random.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(5)],
        "text": ["a", "seven", "one two three a b c", "number"],
    }
    return {
        name: [kind.preprocess(kind.decode(value)) for value in values[name]]
        for name, kind in kinds.items()
    }


def write(path: Path, source: Bundle, model: MultimodalModel, check: Any) -> None:
    """Write a bundle of `model` that otherwise equals `source`."""
    specs = {name: source.manifest.modalities[name] for name in NAMES}
    kinds = {name: source.kinds()[name] for name in NAMES}
    assets = {name: source.assets(spec) for name, spec in specs.items()}
    labels = source.manifest.labels
    settings = {"name": "parity", "labels": labels, "created": "2026-01-01T00:00:00Z"}
    write_bundle(path, model, kinds, specs, assets, provenance={}, check=check, **settings)


@pytest.fixture(scope="module")
def exported(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    source = Bundle.load(tiny_bundle)
    kinds = {name: source.kinds()[name] for name in NAMES}
    torch.manual_seed(1)
    encoders = [build_encoder(kind, 16) for kind in kinds.values()]
    model = MultimodalModel(NAMES, encoders, 16, len(source.manifest.labels))
    model.fusion.set_calibration([0.7, 1.3], 0.4, [1, 1, 1, 0.8])
    samples = samples_of(kinds)
    path = tmp_path_factory.mktemp("parity") / "bundle"
    write(path, source, model, parity_check(model, kinds, samples))
    return Exported(model, Bundle.load(path), kinds, samples)


@contextmanager
def shifted(tensor: torch.Tensor, by: float) -> Iterator[None]:
    """Add a number to all values of a tensor for the block."""
    before = tensor.detach().clone()
    with torch.no_grad():
        tensor.add_(by)
        try:
            yield
        finally:
            tensor.copy_(before)


def check(exported: Exported) -> None:
    run = parity_check(exported.model, exported.kinds, exported.samples)
    run(exported.bundle.path, exported.bundle.manifest)


def test_parity_check_accepts_an_exported_model(exported: Exported) -> None:
    assert list(exported.bundle.manifest.modalities) == list(NAMES)
    check(exported)
    # The differences of a correct export are well below the tolerance.
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("export.parity.TOLERANCE", 1e-5)
        check(exported)


PERTURBED: dict[str, tuple[Callable[[MultimodalModel], torch.Tensor], str]] = {
    "a weight of the image encoder": (
        lambda model: model.get_parameter("encoders.0.head.weight")[0],
        "image, batch 1",
    ),
    "statistics of its batch normalisation": (
        lambda model: next(b for n, b in model.encoders[0].named_buffers() if "mean" in n),
        "image, batch 1",
    ),
    "a weight of the text encoder": (
        lambda model: model.get_parameter("encoders.1.head.bias")[:1],
        "text, batch 1",
    ),
    "the bias of the classifier": (
        lambda model: model.fusion.classifier.bias[:1],
        "classifier, image, batch 1",
    ),
    "the temperature of the second modality": (
        lambda model: model.fusion.modality_temperature[1:],
        "classifier, text, batch 1",
    ),
    "the temperature of the fusion": (
        lambda model: model.fusion.fusion_temperature,
        r"classifier, image\+text, batch 1",
    ),
    "the temperature of the pair": (
        lambda model: model.fusion.subset_temperature[3:],
        r"classifier, image\+text, batch 1",
    ),
}


@pytest.mark.parametrize("value", PERTURBED)
def test_parity_error_names_the_graph_and_the_difference(exported: Exported, value: str) -> None:
    tensor, place = PERTURBED[value]
    with (
        shifted(tensor(exported.model), 0.05),
        pytest.raises(ParityError, match=rf"{place}: .* differ by \d.*, over 0\.0001;"),
    ):
        check(exported)


def test_parity_check_rejects_nan(exported: Exported) -> None:
    bias = exported.model.fusion.classifier.bias[:1]
    with shifted(bias, float("nan")), pytest.raises(ParityError, match="differ by nan"):
        check(exported)


def test_parity_check_compares_every_sample(exported: Exported) -> None:
    # Only the fourth text has this token, so the batches of one and two cannot show the change.
    token = int(exported.samples["text"][3]["input_ids"][1])
    embedding = exported.model.get_parameter(
        "encoders.1.backbone.model.embeddings.word_embeddings.weight"
    )
    with shifted(embedding[token, :1], 1.0), pytest.raises(ParityError, match="text, batch 7"):
        check(exported)


class TestNothingIsLeft:
    @pytest.fixture
    def tampering(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Change every encoder after its graph is written."""
        from export import onnx

        export_encoder = onnx.export_encoder

        def tamper(encoder: Any, kind: Kind, path: Path) -> None:
            export_encoder(encoder, kind, path)
            with torch.no_grad():
                encoder.head.bias += 0.05

        monkeypatch.setattr("export.onnx.export_encoder", tamper)

    def test_failed_parity_writes_no_bundle(
        self, exported: Exported, tmp_path: Path, tampering: None
    ) -> None:
        def check_after_export(folder: Path, manifest: Manifest) -> None:
            assert (folder / "image.onnx").is_file()
            parity_check(exported.model, exported.kinds, exported.samples)(folder, manifest)

        biases = [encoder.head.bias for encoder in exported.model.encoders]
        with (
            shifted(biases[0], 0),
            shifted(biases[1], 0),
            pytest.raises(ParityError, match="image"),
        ):
            write(tmp_path / "new", exported.bundle, exported.model, check_after_export)
        assert list(tmp_path.iterdir()) == []

    def test_failed_parity_keeps_the_existing_bundle(
        self, notes_run: Path, tiny_bundle: Path, tmp_path: Path, tampering: None
    ) -> None:
        bundle = shutil.copytree(tiny_bundle, tmp_path / "bundles" / "bundle")
        for name in ("bundle", "other"):
            with pytest.raises(ParityError, match="note, batch 1"):
                export_run(notes_run, bundle.with_name(name))
        assert list(bundle.parent.iterdir()) == [bundle]
        assert Bundle.load(bundle).id == Bundle.load(tiny_bundle).id


def test_quiet_spectrogram_of_ten_seconds_is_normalised_exactly(tmp_path: Path) -> None:
    kind = Audio("audio", {"seconds": 10.0})
    encoder = LogMel(16_000, 512, None)
    [power] = kind.preprocess(kind.decode(kind.example())).values()
    noise = np.random.default_rng(0).gamma(0.3, 1e-6, power.shape).astype(np.float32)
    export_encoder(encoder, kind, tmp_path / "log.onnx")
    [actual] = Graph(tmp_path / "log.onnx", "cpu").run({"power": noise[None]})
    exact = encoder.double()(torch.from_numpy(noise[None]).double()).numpy()
    assert np.abs(actual - exact).max() < 5e-6
