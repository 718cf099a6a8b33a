"""Encoders in 8-bit integers.

In `quantize_graph`, weights are quantised per channel and activations per tensor, statically, with
ranges taken from training samples. Pretrained transformers have activations that are too uneven
for that, see `export.products`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from dimml.errors import PrecisionError
from dimml.modalities import Arrays, Kind
from dimml.onnx_check import messages
from dimml.table import Row
from export.half import nodes_before_logarithms
from export.samples import readable_samples

CALIBRATION_SAMPLES = 256

OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Clip", "MaxPool"]
"""The operators that are faster in 8 bits. Sums, normalisations and softmax are not, and the
outliers in a transformer's sums would leave only a few steps to all other values of the tensor."""


def quantize_graph(source: Path, target: Path, samples: CalibrationDataReader) -> None:
    """Convert one encoder to 8 bits.

    The layers before a logarithm stay in fp32, because the power spectrogram spans ten powers of
    ten. The projection to features stays in fp32 too: it takes little time and would cause the
    largest error of all layers. Weights use 7 of their 8 bits, because sums of 8-bit weights
    saturate on processors without VNNI, and a bundle must stay accurate on every processor.

    Args:
        source: The fp32 graph.
        target: The file to write.
        samples: Inputs that set the ranges of the activations, at least one.
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
            nodes_to_exclude=float_nodes(onnx.load(prepared).graph),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    model = onnx.load(target)
    _remove_unused_domains(model)
    onnx.save(model, target)


def is_transformer(path: Path) -> bool:
    """Return whether most weights of a graph belong to matrix products."""
    graph = onnx.load(path).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    weights = {"Conv": 0, "MatMul": 0}
    for node in graph.node:
        if node.op_type in weights:
            weights[node.op_type] += sizes.get(node.input[1], 0)
    return weights["MatMul"] > weights["Conv"]


class CalibrationSamples(CalibrationDataReader):  # type: ignore[misc]
    """The calibration inputs of one modality, one sample at a time, so that none is padded.

    Args:
        kind: The modality.
        rows: Rows of a table; the first `CALIBRATION_SAMPLES` readable samples are used.

    Attributes:
        count: Samples read so far.
    """

    def __init__(self, kind: Kind, rows: Sequence[Row]) -> None:
        self.count = 0
        self._kind = kind
        self._samples = islice(readable_samples(kind, rows), CALIBRATION_SAMPLES)

    def get_next(self) -> Arrays | None:
        sample = next(self._samples, None)
        if sample is not None:
            self.count += 1
            return self._kind.collate([sample])
        if not self.count:
            raise PrecisionError(
                f"{self._kind.name}: no training sample can be read, so the ranges of int8 cannot "
                "be set; nothing was written; export with --precision fp32"
            )
        return None


def float_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the nodes that stay in fp32: those before a logarithm, and the projections."""
    # The projection is the last node with weights. With an interaction head there are two, joined.
    weighted = [node.name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    branches = 2 if graph.node[-1].op_type == "Concat" else 1
    return [*weighted[-branches:], *nodes_before_logarithms(graph)]


def _remove_unused_domains(model: onnx.ModelProto) -> None:
    """Remove the operator sets that onnxruntime declares although the graph does not use them."""
    used = {m.domain for m in messages(model.graph) if isinstance(m, onnx.NodeProto)} | {""}
    imports = [operators for operators in model.opset_import if operators.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(imports)
