"""int8 bundles: the parts that are quantised, and the accuracy limit."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from onnx import numpy_helper

import export.bundle
from dimml.bundle import MANIFEST, Bundle
from dimml.cli import main
from dimml.errors import PrecisionError, UsageError
from dimml.predictor import Predictor
from dimml.runtime.session import Graph
from dimml.samples import subset_name, subsets
from dimml.table import Row
from export.precision import check_accuracy, convert_bundle

LABELS = ("zero", "one", "two", "three")
RATE = 16_000
NAMES = ("audio", "image", "text")


def rows_of(
    count: int, seed: int, names: Sequence[str] = NAMES, seconds: Sequence[float] = (1.0,)
) -> list[Row]:
    """Return rows of noisy audio, noisy images and words; the fourth row has no audio."""
    random = np.random.default_rng(seed)
    words = ("seven", "one two three a b c", "number", "a")
    rows = []
    for number in range(count):
        file = io.BytesIO()
        length = int(RATE * seconds[number % len(seconds)])
        soundfile.write(file, 0.3 * random.standard_normal(length), RATE, format="WAV")
        sample = {
            "audio": None if number == 3 else file.getvalue(),
            "image": random.integers(0, 256, (32, 32, 3), np.uint8),
            "text": words[number % len(words)],
        }
        kept = {name: sample[name] for name in names}
        rows.append(Row(str(number), None, LABELS[number % 4], kept))
    return rows


def quantize_ungated(source: Path, folder: Path, *rows: Any) -> dict[str, Any]:
    """Convert without an accuracy limit: predictions of untrained encoders are close to ties."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("export.precision.MAX_DROP", 1.0)
        return convert_bundle(source, folder, "int8", *rows)


@pytest.fixture(scope="module")
def report(int8: Path) -> dict[str, Any]:
    quantization: dict[str, Any] = Bundle.load(int8).manifest.provenance["quantization"]
    return quantization


@pytest.fixture(scope="module")
def int8(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "int8"
    path.mkdir()
    returned = quantize_ungated(tiny_bundle, path, rows_of(16, seed=0), rows_of(12, seed=1))
    assert json.loads((path / MANIFEST).read_text())["provenance"]["quantization"] == returned
    return path


class TestGraphs:
    def test_int8_weights_use_seven_bits_per_channel(self, int8: Path) -> None:
        graph = onnx.load(int8 / "image.onnx").graph
        weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        convolutions = {n: w for n, w in weights.items() if w.dtype == np.int8 and w.ndim == 4}
        assert len(convolutions) == sum(node.op_type == "Conv" for node in graph.node) > 5
        assert min(w.min() for w in convolutions.values()) >= -64
        assert max(w.max() for w in convolutions.values()) == 64
        scales = {n.input[0]: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
        for name, weight in convolutions.items():
            assert weights[scales[name]].shape == weight.shape[:1]

    @pytest.mark.parametrize("name", NAMES)
    def test_projection_and_layers_before_the_logarithm_stay_float(
        self, int8: Path, name: str
    ) -> None:
        graph = onnx.load(int8 / f"{name}.onnx").graph
        makers = {output: node for node in graph.node for output in node.output}
        types = {t.name: t.data_type for t in graph.initializer}
        joined = makers["features"]
        assert joined.op_type == "Concat"
        for projection in (makers[name] for name in joined.input):
            assert projection.op_type == "Gemm"
            assert types[projection.input[1]] == onnx.TensorProto.FLOAT
        logarithms = [node for node in graph.node if node.op_type == "Log"]
        assert len(logarithms) == (name == "audio")
        pending = list(logarithms)
        while pending:
            node = pending.pop()
            assert "Quantize" not in node.op_type
            pending += [makers[i] for i in node.input if i in makers]

    def test_int8_bundle_keeps_the_fp32_classifier(self, int8: Path, tiny_bundle: Path) -> None:
        name = "classifier.onnx"
        assert (int8 / name).read_bytes() == (tiny_bundle / name).read_bytes()

    def test_int8_features_are_close_to_fp32_at_any_batch_size(
        self, int8: Path, tiny_bundle: Path
    ) -> None:
        rows = [row for row in rows_of(8, seed=2) if row.sample["audio"]]
        for name, kind in Bundle.load(int8).kinds().items():
            items = [kind.preprocess(kind.decode(row.sample[name])) for row in rows]
            graphs = [Graph(path / f"{name}.onnx", "cpu") for path in (tiny_bundle, int8)]
            [before], [after] = (graph.run(kind.collate(items)) for graph in graphs)
            error = np.linalg.norm(before - after) / np.linalg.norm(before)
            assert 1e-6 < error < 0.1
            [alone] = graphs[1].run(kind.collate(items[:1]))
            np.testing.assert_allclose(alone[0], after[0], atol=1e-5)

    def test_int8_encoders_take_any_length(self, any_length_bundle: Path, tmp_path: Path) -> None:
        names = ("audio", "text")
        quantize_ungated(
            any_length_bundle,
            tmp_path,
            rows_of(8, 0, names, seconds=(0.4, 1.0, 0.7)),
            rows_of(4, 1, names, seconds=(0.3, 1.5)),
        )
        predictor = Predictor.load(tmp_path, "cpu")
        samples = [row.sample for row in rows_of(3, 2, names, seconds=(0.2, 2.2, 0.9))]
        together = predictor.predict_many(samples)
        for sample, answer in zip(samples, together, strict=True):
            alone = predictor.predict(sample)
            assert list(alone.probabilities.values()) == pytest.approx(
                list(answer.probabilities.values()), abs=1e-5
            )


class TestReport:
    def test_every_subset_is_compared_on_rows_that_have_it(
        self, int8: Path, tiny_bundle: Path, report: dict[str, Any]
    ) -> None:
        rows = rows_of(12, seed=1)
        predictors = [Predictor.load(path, "cpu") for path in (tiny_bundle, int8)]
        for subset in subsets(NAMES):
            kept = [row for row in rows if "audio" not in subset or row.sample["audio"]]
            samples = [{name: row.sample[name] for name in subset} for row in kept]
            before, after = (p.predict_many(samples) for p in predictors)
            expected = {
                "samples": len(kept),
                "fp32": np.mean([a.label == r.label for a, r in zip(before, kept, strict=True)]),
                "int8": np.mean([a.label == r.label for a, r in zip(after, kept, strict=True)]),
                "max_difference": max(
                    abs(one.probabilities[label] - other.probabilities[label])
                    for one, other in zip(before, after, strict=True)
                    for label in LABELS
                ),
            }
            assert report["subsets"][subset_name(subset)] == pytest.approx(expected, abs=1e-5)
            assert report["subsets"][subset_name(subset)]["max_difference"] > 0

    def test_int8_manifest_describes_the_quantisation(
        self, int8: Path, tiny_bundle: Path, report: dict[str, Any]
    ) -> None:
        assert (Bundle.load(int8).manifest.precision, report["split"]) == ("int8", "validation")
        assert report["calibration_samples"] == {"audio": 15, "image": 16, "text": 16}
        for graph, size in report["bytes"].items():
            assert size["fp32"] == (tiny_bundle / graph).stat().st_size
            assert size["int8"] == (int8 / graph).stat().st_size < size["fp32"] / 2


class TestAccuracyLimit:
    @pytest.mark.parametrize(
        ("fp32", "int8", "rejected"),
        [
            (0.9, 0.895, False),
            (0.9, 0.95, False),
            (0.9, 0.8949, True),
            (1.0, 0.0, True),
        ],
    )
    def test_subset_may_lose_half_a_point(self, fp32: float, int8: float, rejected: bool) -> None:
        same = {"samples": 1000, "fp32": 0.8, "int8": 0.8, "max_difference": 0.1}
        measured = {"a": same, "b": same, "a+b": {**same, "fp32": fp32, "int8": int8}}
        if not rejected:
            assert check_accuracy(measured, "int8", ["a", "b"]) is None
            return
        lost = rf"a\+b: int8 loses {100 * (fp32 - int8):.2f} points"
        with pytest.raises(
            PrecisionError, match=lost + r".*over the limit of 0\.5; nothing was written"
        ):
            check_accuracy(measured, "int8", ["a", "b"])

    def test_nan_probability_counts_as_lost_accuracy(self) -> None:
        row = {"samples": 9, "fp32": 0.8, "int8": 0.8, "max_difference": float("nan")}
        with pytest.raises(PrecisionError, match="a: int8 loses"):
            check_accuracy({"a": row}, "int8", ["a"])

    @pytest.mark.parametrize(
        ("split", "message"), [(0, "no training sample"), (1, "no row of the")]
    )
    def test_modality_without_samples_is_rejected(
        self, tiny_bundle: Path, tmp_path: Path, split: int, message: str
    ) -> None:
        rows = [rows_of(4, seed=0), rows_of(4, seed=1)]
        rows[split] = [
            Row(r.id, r.split, r.label, {**r.sample, "audio": None}) for r in rows[split]
        ]
        with pytest.raises(PrecisionError, match=f"audio: {message}"):
            convert_bundle(tiny_bundle, tmp_path, "int8", *rows)


class TestExport:
    def command(self, monkeypatch: pytest.MonkeyPatch, run: Path, bundle: Path) -> object:
        arguments = ["dimml", "export", str(run), str(bundle), "--precision", "int8"]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code

    def test_export_replaces_a_bundle_only_by_an_accurate_one(
        self,
        notes_run: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        write_fp32, fp32 = export.bundle._write_fp32, tmp_path / "fp32"

        def write_fp32_once(run: Any, path: Path, *arguments: Any) -> None:
            """Export once: the exports of this test differ in what follows."""
            if not fp32.exists():
                write_fp32(run, fp32, *arguments)
            shutil.copytree(fp32, path)

        monkeypatch.setattr("export.bundle._write_fp32", write_fp32_once)
        bundle = tmp_path / "bundles" / "int8"
        assert self.command(monkeypatch, notes_run, bundle) == 0
        printed = capsys.readouterr().out.splitlines()
        assert "| note | 24 | 1.0000 | 1.0000 |" in printed[2]
        assert printed[-1] == str(bundle)
        loaded = Bundle.load(bundle)
        assert (loaded.manifest.precision, loaded.manifest.name) == ("int8", "notes")
        assert loaded.manifest.provenance["recipe"]["name"] == "notes"

        monkeypatch.setattr("export.precision.quantize_graph", write_constant_encoder)
        for name in ("int8", "other"):
            assert self.command(monkeypatch, notes_run, bundle.with_name(name)) == 1
            message = capsys.readouterr().err
            assert "note: int8 loses 50.00 points" in message
            assert "nothing was written" in message
        assert list(bundle.parent.iterdir()) == [bundle]
        assert Bundle.load(bundle).id == loaded.id

    def test_unknown_precision_is_rejected(self, notes_run: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="'int4'; choose one of: fp32, fp16, int8"):
            export.bundle.export_run(notes_run, tmp_path / "bundle", "int4")
        assert list(tmp_path.iterdir()) == []


def write_constant_encoder(source: Path, target: Path, samples: Any) -> None:
    """Replace `quantize_graph`: write an encoder with the same features for all samples."""
    samples.get_next()
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            zeros = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, target)
