"""Encoders in 8-bit integers.

Weights are quantised per channel and activations per tensor, statically, with ranges taken from
training samples.
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
from export.half import nodes_before_logarithms

CALIBRATION_SAMPLES = 256

OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "MaxPool"]
"""The operators that are faster in 8 bits. Sums, normalisations and softmax are not, and outliers
in a transformer's sums would leave the other values of the tensor only a few steps."""


def quantize_graph(source: Path, target: Path, samples: CalibrationDataReader) -> None:
    """Convert one encoder to 8 bits.

    The layers before a logarithm stay in fp32, because the input of the mel filters spans ten
    powers of ten. The projection to features stays in fp32 too: it takes little time and would
    cause the largest single error. Weights use 7 of their 8 bits, because processors without VNNI
    saturate on 8, and another processor than the one that measured the accuracy may serve it.

    Args:
        source: The fp32 graph.
        target: The file to write.
        samples: Inputs to calibrate on, at least one.
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
            nodes_to_exclude=_float_nodes(onnx.load(prepared).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(target)
    _remove_unused_domains(model)
    onnx.save(model, target)


class CalibrationSamples(CalibrationDataReader):  # type: ignore[misc]
    """Samples of one modality, one at a time, so that no length has to be padded.

    Args:
        kind: The modality.
        rows: Rows of a table; the first `CALIBRATION_SAMPLES` that have the modality are used.

    Attributes:
        count: Samples read so far; a value that cannot be read is skipped.
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


def _float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes that stay in fp32: those before a logarithm, and the projection."""
    # The projection is the last node with weights.
    projection = [n.name for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")][-1]
    return [projection, *nodes_before_logarithms(graph)]


def _remove_unused_domains(model: onnx.ModelProto) -> None:
    """Remove the imports of operator sets that onnxruntime adds and the graph does not use."""
    used = {m.domain for m in messages(model.graph) if isinstance(m, onnx.NodeProto)} | {""}
    kept = [one for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
