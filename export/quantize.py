"""Encoders in 8-bit integers.

Static quantisation of weights (per channel) and activations (per tensor), with the ranges that
training samples show. The classifier with its temperatures stays in fp32: it costs next to nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from dimml.errors import InputError, PrecisionError
from dimml.modalities import Arrays, Kind
from dimml.onnx_check import messages
from dimml.samples import is_absent
from dimml.table import Row
from export.half import in_front_of_logarithms

CALIBRATION_SAMPLES = 256

OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool"]
"""What pays in 8 bits. Sums, normalisations and softmax do not, and a transformer's sums hold
outliers that leave the rest of the tensor next to no steps."""


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


def _kept_in_float(graph: onnx.GraphProto) -> list[str]:
    """Nodes in front of a logarithm, and the last that has weights: the projection."""
    projection = [n.name for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")][-1]
    return [projection, *in_front_of_logarithms(graph)]


def _forget_unused_domains(model: onnx.ModelProto) -> None:
    """Drops the imports of every operator set that onnxruntime knows and the graph does not use."""
    used = {m.domain for m in messages(model.graph) if isinstance(m, onnx.NodeProto)} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
