"""Encoders whose products with constant weights are computed in 8-bit integers.

Transformers have activations that are too uneven for one static range. Here every row of
activations (a token, a frame) gets a scale of its own when it is computed, so an answer does not
depend on the rest of the batch, and no sample is needed for calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dimml.onnx_check import RUNTIME_DOMAIN
from export.quantize import float_nodes

WEIGHT_LIMIT = 63
"""The largest weight. Sums of 8-bit weights saturate on processors without VNNI; 7 bits do not."""

ACTIVATION_LIMIT = 127.0
ACTIVATION_ZERO = 128
"""onnxruntime is fast on unsigned activations only, so 0 is stored as 128."""

SMALLEST_PEAK = 1e-12
"""The least peak of a row; a row of zeros would have a scale of 0."""


def quantize_products(source: Path, target: Path) -> None:
    """Convert the products of one encoder with constant matrices to 8 bits.

    Args:
        source: The fp32 graph. Its projection and the layers before a logarithm stay in fp32.
        target: The file to write.
    """
    model = onnx.load(source)
    graph = model.graph
    weights = {t.name: t for t in graph.initializer if len(t.dims) == 2}
    kept = set(float_nodes(graph))
    rewriter = _Rewriter()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and node.name not in kept:
            nodes += rewriter.quantize(node, numpy_helper.to_array(weights[node.input[1]]))
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    tensors = [t for t in (*graph.initializer, *rewriter.constants.values()) if t.name in used]
    _replace(graph.node, nodes)
    _replace(graph.initializer, tensors)
    if rewriter.constants:
        model.opset_import.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
    onnx.save(model, target)


class _Rewriter:
    """Replaces products by their 8-bit forms.

    Attributes:
        constants: Name to constant of the new nodes.
    """

    def __init__(self) -> None:
        self.constants: dict[str, onnx.TensorProto] = {}
        self._quantized: set[str] = set()

    def quantize(self, node: onnx.NodeProto, weight: np.ndarray) -> list[onnx.NodeProto]:
        """Return the nodes that compute one product.

        Args:
            node: The product, a `MatMul`.
            weight: Its constant matrix [inputs, outputs].
        """
        values, [output] = node.input[0], node.output
        scale = np.maximum(np.abs(weight).max(axis=0), SMALLEST_PEAK) / WEIGHT_LIMIT
        integers = np.rint(weight / scale).astype(np.int8)
        # Several products of one input, such as query, key and value, share its quantisation.
        first = [] if values in self._quantized else self._quantize_rows(values, len(weight))
        self._quantized.add(values)
        product = helper.make_node(
            "MatMulIntegerToFloat",
            [
                f"{values}_int8",
                self._constant(f"{node.input[1]}_int8", integers),
                self._constant("int8_one", np.float32(1)),
                self._constant(f"{node.input[1]}_scale", scale.astype(np.float32)),
                self._constant("int8_zero", np.uint8(ACTIVATION_ZERO)),
            ],
            [f"{output}_unscaled"],
            node.name,
            domain=RUNTIME_DOMAIN,
        )
        scaled = helper.make_node("Mul", [f"{output}_unscaled", f"{values}_scale"], [output])
        return [*first, product, scaled]

    def _quantize_rows(self, values: str, width: int) -> list[onnx.NodeProto]:
        """Return the nodes that compute `{values}_int8`, and `{values}_scale` [..., 1]."""
        last = self._constant("int8_last_axis", np.array([-1], np.int64))
        rows = self._constant(f"int8_rows_of_{width}", np.array([-1, width], np.int64))
        smallest = self._constant("int8_smallest_peak", np.float32(SMALLEST_PEAK))
        limit = self._constant("int8_limit", np.float32(ACTIVATION_LIMIT))
        zero = self._constant("int8_zero", np.uint8(ACTIVATION_ZERO))
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Abs", [values], "magnitude", {}),
            ("ReduceMax", [f"{values}_magnitude", last], "peak", {"keepdims": 1}),
            ("Max", [f"{values}_peak", smallest], "positive_peak", {}),
            ("Div", [f"{values}_positive_peak", limit], "scale", {}),
            # `QuantizeLinear` takes one scale per row of a matrix.
            ("Reshape", [values, rows], "rows", {}),
            ("Reshape", [f"{values}_scale", last], "row_scales", {}),
            ("Shape", [f"{values}_row_scales"], "row_count", {}),
            ("Expand", [zero, f"{values}_row_count"], "row_zeros", {}),
            (
                "QuantizeLinear",
                [f"{values}_rows", f"{values}_row_scales", f"{values}_row_zeros"],
                "int8_rows",
                {"axis": 0},
            ),
            ("Shape", [values], "shape", {}),
            ("Reshape", [f"{values}_int8_rows", f"{values}_shape"], "int8", {}),
        ]
        return [
            helper.make_node(operator, inputs, [f"{values}_{output}"], **attributes)
            for operator, inputs, output, attributes in steps
        ]

    def _constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _replace(field: Any, items: list[onnx.NodeProto] | list[onnx.TensorProto]) -> None:
    """Replace the content of a repeated field, whose items may be among the new ones."""
    copies = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(copies)
