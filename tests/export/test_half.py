"""fp16 bundles: the parts that are float16, and predictions close to the fp32 bundle."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile

from dimml.bundle import Bundle
from dimml.errors import PrecisionError
from dimml.modalities import KINDS
from dimml.nn.encoders import build_encoder, join_encoder
from dimml.nn.pretrained.adapter import Adapter
from dimml.predictor import Predictor
from dimml.runtime.session import Graph
from dimml.table import Row
from export.half import halve_graph
from export.onnx import export_encoder
from export.precision import check_accuracy, convert_bundle
from tests.conftest import PretrainedFolder
from train.pretrained import read_model
from train.recipe import ModalityConfig

TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}


def rows_of(count: int, seed: int) -> list[Row]:
    """Return rows of noisy audio, noisy images and words; the fourth row has no audio."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        file = io.BytesIO()
        soundfile.write(file, 0.3 * random.standard_normal(16_000), 16_000, format="WAV")
        sample = {
            "audio": None if number == 3 else file.getvalue(),
            "image": random.integers(0, 256, (32, 32, 3), np.uint8),
            "text": ("seven", "one two three", "number", "a")[number % 4],
        }
        rows.append(Row(str(number), None, ("zero", "one", "two", "three")[number % 4], sample))
    return rows


@pytest.fixture(scope="module")
def fp16(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("halved") / "fp16"
    path.mkdir()
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The predictions of untrained encoders are close to ties, so accuracy means nothing.
        monkeypatch.setattr("export.precision.MAX_DROP", 1.0)
        convert_bundle(tiny_bundle, path, "fp16", [], rows_of(12, seed=1))
    return path


@pytest.mark.parametrize("name", ["audio", "image", "text"])
def test_fp16_graph_has_float16_weights_and_float32_interface(
    tiny_bundle: Path, fp16: Path, name: str
) -> None:
    graph = onnx.load(fp16 / f"{name}.onnx").graph
    [features] = graph.output
    assert TYPES[features.type.tensor_type.elem_type] == "float32"
    fp32_inputs = onnx.load(tiny_bundle / f"{name}.onnx").graph.input
    types = {value.name: value.type.tensor_type.elem_type for value in fp32_inputs}
    assert {value.name: value.type.tensor_type.elem_type for value in graph.input} == types
    ratio = (fp16 / f"{name}.onnx").stat().st_size / (tiny_bundle / f"{name}.onnx").stat().st_size
    assert ratio < 0.65


def test_layers_before_the_logarithm_stay_float32(fp16: Path) -> None:
    graph = onnx.load(fp16 / "audio.onnx").graph
    types = {tensor.name: TYPES.get(tensor.data_type) for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    pending = [node for node in graph.node if node.op_type == "Log"]
    weight_types, operators = set(), set()
    while pending:
        node = pending.pop()
        operators.add(node.op_type)
        weight_types |= {types[name] for name in node.input if name in types}
        pending += [makers[name] for name in node.input if name in makers]
    assert "MatMul" in operators
    assert "Cast" not in operators
    assert weight_types - {None} == {"float32"}


def test_fp16_features_equal_fp32_for_any_loudness(tiny_bundle: Path, fp16: Path) -> None:
    graphs = [Graph(path / "audio.onnx", "cpu") for path in (tiny_bundle, fp16)]
    bands, frames = graphs[0].inputs["power"][1:]
    power = 10.0 ** np.random.default_rng(0).uniform(-9, 7, (4, bands, frames))
    features = [graph.run({"power": power.astype(np.float32)})[0] for graph in graphs]
    np.testing.assert_allclose(*features, atol=0.02)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the fp32 and the fp16 graph of an encoder whose spectrogram has 128 657 numbers."""
    kind = KINDS["audio"]("audio", {"seconds": 8.0})
    encoder = build_encoder(kind, 8, preset="small", n_mels=None)
    fp32, fp16 = (
        tmp_path_factory.mktemp("recording") / f"{name}.onnx" for name in ("fp32", "fp16")
    )
    export_encoder(encoder.eval(), kind, fp32)
    halve_graph(fp32, fp16)
    return fp32, fp16


def test_means_stay_float32(recording: tuple[Path, Path]) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(recording[1])).graph
    types = {value.name: TYPES.get(value.type.tensor_type.elem_type) for value in graph.value_info}
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    # Two each for the mean and the variance of a clip, and one over positions.
    assert len(means) == 5
    assert {types[name] for node in means for name in (node.input[0], *node.output)} == {"float32"}


@pytest.mark.gpu
def test_fp16_features_of_a_long_recording_on_cuda(recording: tuple[Path, Path]) -> None:
    fp32, fp16 = recording
    expected = Graph(fp32, "cpu")
    bands, frames = expected.inputs["power"][1:]
    assert bands * frames > 2**16
    power = 10.0 ** np.random.default_rng(0).uniform(-9, 1, (2, bands, frames))
    inputs = {"power": power.astype(np.float32)}
    [features], [reference] = Graph(fp16, "cuda").run(inputs), expected.run(inputs)
    np.testing.assert_allclose(features, reference, atol=0.02)


@pytest.mark.gpu
def test_fp16_bundle_on_cuda_predicts_like_fp32(tiny_bundle: Path, fp16: Path) -> None:
    samples = [row.sample for row in rows_of(8, seed=2)]
    halved = Predictor.load(fp16, "cuda").predict_many(samples)
    for one, other in zip(
        halved, Predictor.load(tiny_bundle, "cpu").predict_many(samples), strict=True
    ):
        assert one.probabilities == pytest.approx(dict(other.probabilities), abs=0.02)


@pytest.mark.parametrize("name", ["audio", "image", "text"])
def test_fp16_graph_is_valid(fp16: Path, name: str) -> None:
    onnx.checker.check_model(str(fp16 / f"{name}.onnx"))


def test_fp16_bundle_names_its_precision_and_predicts_like_fp32(
    tiny_bundle: Path, fp16: Path
) -> None:
    manifest = Bundle.load(fp16).manifest
    report: dict[str, Any] = manifest.provenance["quantization"]
    assert manifest.precision == "fp16"
    assert report["provider"] in ("cpu", "cuda")
    assert {row["samples"] for row in report["subsets"].values()} == {11, 12}
    assert max(row["max_difference"] for row in report["subsets"].values()) < 0.02
    samples = [row.sample for row in rows_of(8, seed=2)]
    predictions = [Predictor.load(b, "cpu").predict_many(samples) for b in (fp16, tiny_bundle)]
    for pair in zip(*predictions, strict=True):
        values = [list(prediction.probabilities.values()) for prediction in pair]  # type: ignore[union-attr]
        np.testing.assert_allclose(*values, atol=0.02)


def test_accuracy_error_names_the_precision() -> None:
    row = {"samples": 100, "fp32": 0.9, "fp16": 0.8, "max_difference": 0.5}
    with pytest.raises(PrecisionError, match=r"a: fp16 loses 10\.00 points"):
        check_accuracy({"a": row}, "fp16", ["a"])


@pytest.mark.parametrize(
    "model_type",
    ["wav2vec2", pytest.param("wavlm", marks=pytest.mark.slow("wav2vec2 has its front end"))],
)
def test_waveforms_are_normalised_alike_in_fp16(
    model_type: str, pretrained_folder: PretrainedFolder, tmp_path: Path
) -> None:
    folder = pretrained_folder("audio", model_type)
    model = read_model("call", ModalityConfig(kind="audio", encoder={"pretrained": str(folder)}))
    kind = KINDS["audio"]("call", dict(model.preprocessing))
    backbone = model.load()
    encoder = join_encoder(kind, backbone, Adapter(backbone.width, 8, "linear"))
    export_encoder(encoder, kind, tmp_path / "fp32.onnx")
    halve_graph(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    graphs = [Graph(tmp_path / f"{precision}.onnx", "cpu") for precision in ("fp32", "fp16")]
    random = np.random.default_rng(0)
    # float16 ends at 65504: a recording of 20 s has more samples.
    for seconds, level in ((20.0, 0.5), (0.7, 0.01), (1.0, 0.0)):
        samples = (level * random.standard_normal(int(16_000 * seconds))).astype(np.float32)
        inputs = kind.collate([kind.preprocess(kind.decode(samples))])
        [[whole], [half]] = (graph.run(inputs) for graph in graphs)
        np.testing.assert_allclose(half, whole, atol=5e-3)
