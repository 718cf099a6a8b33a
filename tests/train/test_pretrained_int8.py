"""int8 bundles with pretrained encoders: products in 8 bits, and encoders that stay in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.errors import PrecisionError
from dimml.runtime.session import Graph
from dimml.table import TableSource
from export.bundle import export_run
from export.precision import convert_bundle, report_text
from tests.conftest import PretrainedFolder
from train.data.splits import read_split
from train.recipe import load_recipe
from train.run import train_run

TEXTS = ("it was red", "blue", "red : query one two three zero red red was it", "it was: blue")


@pytest.fixture(scope="module")
def fp32(
    recipe_file: Path, pretrained_folder: PretrainedFolder, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Export a run with a preset for photos and a frozen BERT for notes."""
    folder = tmp_path_factory.mktemp("int8")
    bert = pretrained_folder("text", "bert")
    front = "{kind: image, preprocessing: {size: [32, 32]}}"
    modalities = f"modalities={{front: {front}, note: {{kind: text, encoder: {bert}}}}}"
    recipe = load_recipe(recipe_file, [modalities, "training.epochs=6"])
    train_run(recipe, folder / "run", resume=False)
    export_run(folder / "run", folder / "fp32")
    return folder / "fp32"


@pytest.fixture
def convert(fp32: Path, recipe_file: Path, tmp_path: Path) -> Any:
    """Return a function that writes an int8 bundle, and returns its folder and the report."""
    data = load_recipe(recipe_file).data.table
    kinds = {"front": "image", "note": "text"}
    rows = [read_split(TableSource(data, kinds), split) for split in ("train", "validation")]

    def converted() -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / "int8"
        folder.mkdir()
        return folder, convert_bundle(fp32, folder, "int8", *rows)

    return converted


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def write_zeros(source: Path, target: Path, *_: Any) -> None:
    """Write an encoder with the same features for all samples."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, target)


def test_text_encoder_has_8_bit_products_and_answers_do_not_depend_on_the_batch(
    convert: Any, fp32: Path
) -> None:
    folder, report = convert()
    assert "MatMulIntegerToFloat" in operators(folder / "note.onnx")
    assert "MatMulIntegerToFloat" not in operators(folder / "front.onnx")
    assert "QuantizeLinear" in operators(folder / "front.onnx")
    assert report["kept_in_fp32"] == []
    # Ranges that are computed per row need no calibration.
    assert set(report["calibration_samples"]) == {"front"}

    kind = Bundle.load(folder).kinds()["note"]
    items = [kind.preprocess(kind.decode(text)) for text in TEXTS]
    graph, before = (Graph(path / "note.onnx", "cpu") for path in (folder, fp32))
    [together], [exact] = graph.run(kind.collate(items)), before.run(kind.collate(items))
    for item, features in zip(items, together, strict=True):
        [alone] = graph.run(kind.collate([item]))
        np.testing.assert_allclose(alone[0], features, atol=1e-5)
    assert 1e-6 < np.linalg.norm(together - exact) / np.linalg.norm(exact) < 0.1


def test_int8_bundle_is_loaded_and_answers_alike_in_any_batch(convert: Any) -> None:
    folder, _ = convert()
    predictor = Predictor.load(folder, "cpu")
    samples = [{"note": text} for text in TEXTS]
    for sample, answer in zip(samples, predictor.predict_many(samples), strict=True):
        alone = predictor.predict(sample)
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-5)


def test_encoder_that_loses_too_much_stays_in_fp32_and_is_named(
    convert: Any, fp32: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.precision.quantize_products", write_zeros)
    folder, report = convert()
    assert report["kept_in_fp32"] == ["note"]
    assert "note stays in fp32: in int8 it loses more than" in report_text(report, "int8")
    assert (folder / "note.onnx").read_bytes() == (fp32 / "note.onnx").read_bytes()
    assert (folder / "front.onnx").read_bytes() != (fp32 / "front.onnx").read_bytes()
    manifest = Bundle.load(folder).manifest
    assert manifest.provenance["quantization"]["kept_in_fp32"] == ["note"]
    answer = Predictor.load(folder, "cpu").predict({"note": "it was red"})
    assert answer.modalities["note"].present


def test_bundle_of_which_every_encoder_loses_too_much_is_refused(
    convert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("quantize_products", "quantize_graph"):
        monkeypatch.setattr(f"export.precision.{name}", write_zeros)
    with pytest.raises(PrecisionError, match=r"int8 loses .* points of validation accuracy"):
        convert()
