"""Encoders in 8-bit integers, written only where every subset stays as accurate as it was.

Static quantisation of weights (per channel) and activations (per tensor), with the ranges that
training samples show. The classifier with its temperatures stays in fp32: it costs next to nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from dimml.bundle import MANIFEST, Bundle, Manifest, file_entry
from dimml.errors import InputError, PrecisionError
from dimml.graphs import messages
from dimml.modalities import Arrays, Kind
from dimml.predictor import Predictor
from dimml.runtime import available_cores
from dimml.samples import is_absent
from dimml.table import Row
from train.evaluate import subset_answers

CALIBRATION_SAMPLES = 256
MAX_DROP = 0.005
"""Validation accuracy that a subset may lose."""

OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool"]
"""What pays in 8 bits. Sums, normalisations and softmax do not, and a transformer's sums hold
outliers that leave the rest of the tensor next to no steps."""


def quantize_bundle(
    source: Path, folder: Path, calibration: Sequence[Row], validation: Sequence[Row]
) -> dict[str, Any]:
    """Writes the int8 form of a bundle, and measures it against the fp32 one.

    Args:
        source: the fp32 bundle.
        folder: empty; where to write. What it holds after an error is of no use.
        calibration: training rows; the first `CALIBRATION_SAMPLES` of each modality set its ranges.
        validation: rows to compare on.

    Returns:
        The comparison, which the manifest keeps as `provenance["quantization"]`.

    Raises:
        PrecisionError: a subset loses more than `MAX_DROP`, or a modality has no sample to
            calibrate or to compare on.
    """
    bundle = Bundle.load(source)
    for name in bundle.manifest.files:
        shutil.copy(source / name, folder / name)
    counts = {}
    for name, kind in bundle.kinds().items():
        graph = bundle.manifest.modalities[name].graph
        reader = CalibrationSamples(kind, calibration)
        quantize_graph(source / graph, folder / graph, reader)
        counts[name] = reader.count
    manifest = _write_manifest(folder, bundle.manifest, bundle.manifest.provenance)
    measured = compare(source, folder, validation)
    check_accuracy(measured, list(manifest.modalities))
    report = {
        "split": "validation",
        "calibration_samples": counts,
        "bytes": {
            spec.graph: {
                m.precision: m.files[spec.graph].bytes for m in (bundle.manifest, manifest)
            }
            for spec in manifest.modalities.values()
        },
        "subsets": measured,
    }
    _write_manifest(folder, manifest, {**manifest.provenance, "quantization": report})
    return report


def quantize_graph(source: Path, target: Path, samples: CalibrationDataReader) -> None:
    """One encoder in 8 bits.

    The layers in front of a logarithm (the mel filters, whose input spans ten powers of ten) and
    the projection that makes the features stay in fp32; the latter costs no time and would be the
    largest single error. Weights take 7 bits of their 8: processors without VNNI saturate
    otherwise, and the bundle may be served by another one than it was measured on.

    Args:
        source: fp32 graph.
        target: file to write.
        samples: inputs to calibrate on, at least one.
    """
    with tempfile.TemporaryDirectory(prefix="dimml-quantize-") as scratch:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            samples,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            nodes_to_exclude=_kept_in_float(onnx.load(prepared).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(target)
    _forget_unused_domains(model)
    onnx.save(model, target)


class CalibrationSamples(CalibrationDataReader):  # type: ignore[misc]
    """Real samples of one modality, one at a time, so that any lengths go and none is padded.

    Args:
        kind: the modality.
        rows: where the samples are; the first `CALIBRATION_SAMPLES` that have the modality count.

    Attributes:
        count: how many were read so far; a value that cannot be read is passed over.
    """

    def __init__(self, kind: Kind, rows: Sequence[Row]) -> None:
        self.count = 0
        self._kind = kind
        present = (row.sample[kind.name] for row in rows if not is_absent(row.sample[kind.name]))
        self._values = islice(present, CALIBRATION_SAMPLES)

    def get_next(self) -> Arrays | None:
        for value in self._values:
            try:
                item = self._kind.preprocess(self._kind.decode(value))
            except InputError:
                continue
            self.count += 1
            return self._kind.collate([item])
        if not self.count:
            raise PrecisionError(
                f"{self._kind.name}: no training sample can be read, so int8 has no ranges; "
                "nothing was written; export with --precision fp32"
            )
        return None


def compare(fp32: Path, int8: Path, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Both bundles' accuracy on each subset that some row has.

    Returns:
        Subset name to samples, the accuracy of each, and `max_difference`, the largest absolute
        difference of any probability.
    """
    fp32_answers, int8_answers = (
        subset_answers(
            Predictor.load(path, "cpu", threads=available_cores()), rows, f"evaluating {name}"
        )
        for name, path in (("fp32", fp32), ("int8", int8))
    )
    found = {}
    for subset, pairs in fp32_answers.items():
        if not pairs:
            continue
        labels = np.array([label for _, label in pairs])
        before, after = (
            np.array([p for p, _ in answers[subset]]) for answers in (fp32_answers, int8_answers)
        )
        found[subset] = {
            "samples": len(labels),
            "fp32": float((before.argmax(axis=1) == labels).mean()),
            "int8": float((after.argmax(axis=1) == labels).mean()),
            "max_difference": float(np.abs(before - after).max()),
        }
    return found


def check_accuracy(measured: dict[str, dict[str, Any]], modalities: Sequence[str]) -> None:
    """Refuses what `compare` found where a subset loses more than `MAX_DROP`.

    Raises:
        PrecisionError: names the subset that loses most, and the drop; or the modality that no row
            has, which therefore was not compared.
    """
    if missing := [name for name in modalities if name not in measured]:
        raise PrecisionError(
            f"{missing[0]}: no row of the validation split has it, so int8 could not be compared "
            "with fp32; nothing was written"
        )

    def drop(subset: str) -> float:
        row = measured[subset]
        # Not a number: no answer, so nothing of its accuracy is left.
        return row["fp32"] - row["int8"] if np.isfinite(row["max_difference"]) else 1.0

    worst = max(measured, key=drop)
    # Accuracies are quotients: a drop of the limit itself may come out a rounding error above it.
    if drop(worst) > MAX_DROP + 1e-9:
        raise PrecisionError(
            f"{worst}: int8 loses {100 * drop(worst):.2f} points of validation accuracy "
            f"({measured[worst]['fp32']:.4f} to {measured[worst]['int8']:.4f}), over "
            f"{100 * MAX_DROP:g}; nothing was written; export with --precision fp32"
        )


def table(report: dict[str, Any]) -> str:
    """The comparison as a Markdown table, and the sizes of the graphs."""
    lines = [
        "| subset | samples | fp32 | int8 | max. difference of probabilities |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['samples']} | {row['fp32']:.4f} | {row['int8']:.4f} "
        f"| {row['max_difference']:.4f} |"
        for name, row in report["subsets"].items()
    ]
    lines += [
        f"{graph}: {size['fp32'] / 1e6:.2f} MB in fp32, {size['int8'] / 1e6:.2f} MB in int8"
        for graph, size in report["bytes"].items()
    ]
    return "\n".join(lines)


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Nodes in front of a logarithm, and the last that has weights: the projection."""
    makers = {output: node for node in graph.node for output in node.output}
    kept = [[n.name for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")][-1]]
    ahead = [node for node in graph.node if node.op_type == "Log"]
    while ahead:
        node = ahead.pop()
        kept.append(node.name)
        ahead += [makers[name] for name in node.input if name in makers]
    return kept


def _forget_unused_domains(model: onnx.ModelProto) -> None:
    """Drops the imports of every operator set that onnxruntime knows and the graph does not use."""
    used = {m.domain for m in messages(model.graph) if isinstance(m, onnx.NodeProto)} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _write_manifest(folder: Path, manifest: Manifest, provenance: dict[str, Any]) -> Manifest:
    """The manifest of the files in the folder as they are now."""
    changed = manifest.model_copy(
        update={
            "precision": "int8",
            "provenance": provenance,
            "files": {name: file_entry(folder / name) for name in manifest.files},
        }
    )
    (folder / MANIFEST).write_text(changed.model_dump_json(indent=2) + "\n")
    return changed
