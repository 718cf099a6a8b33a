"""Encoders in 16-bit floats, for GPUs: half the memory, and the tensor cores' full speed."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16


def halve_graph(source: Path, target: Path) -> None:
    """One encoder with weights and sums in float16; its inputs and features stay float32.

    The layers in front of a logarithm (the mel filters, whose input spans ten powers of ten, where
    float16 has nine) stay in float32 too.

    Args:
        source: fp32 graph.
        target: file to write.
    """
    model = onnx.load(source)
    kept = in_front_of_logarithms(model.graph)
    onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=kept), target)


def in_front_of_logarithms(graph: onnx.GraphProto) -> list[str]:
    """The names of the logarithms of a graph and of all that their inputs are made by."""
    makers = {output: node for node in graph.node for output in node.output}
    ahead = [node for node in graph.node if node.op_type == "Log"]
    found = []
    while ahead:
        node = ahead.pop()
        found.append(node.name)
        ahead += [makers[name] for name in node.input if name in makers]
    return found
