"""Encoders in 16-bit floats for GPUs: half the memory, and the full speed of tensor cores."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel


def halve_graph(source: Path, target: Path) -> None:
    """Convert one encoder to float16 weights and sums; its inputs and features stay float32.

    The layers before a logarithm stay float32 too: the input of the mel filters spans ten powers of
    ten, and float16 has nine.

    Args:
        source: The fp32 graph.
        target: The file to write.
    """
    whole = onnx.load(source)
    kept = nodes_before_logarithms(whole.graph)
    half = convert_float_to_float16(onnx.load(source), keep_io_types=True, node_block_list=kept)
    _undo_round_trips(half.graph, whole.graph)
    OnnxModel.graph_topological_sort(half.graph)
    onnx.save(half, target)


def _undo_round_trips(graph: onnx.GraphProto, whole: onnx.GraphProto) -> None:
    """Restore the values of float32 nodes, which the converter rounds through float16."""
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in whole.initializer}
    restored, renamed = {}, {}
    for node in graph.node:
        if node.op_type != "Cast" or node.attribute[0].i != onnx.TensorProto.FLOAT:
            continue
        [source], [name] = node.input, node.output
        maker = makers.get(source)
        if source in constants:
            restored[name] = constants[source]
        elif maker is not None and maker.op_type == "Cast":
            renamed[name] = maker.input[0]
    for node in graph.node:
        for place, name in enumerate(node.input):
            while name in renamed:
                name = renamed[name]
            node.input[place] = name
    for name, tensor in restored.items():
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = name
    _drop_unused(graph, {*renamed, *restored})


def _drop_unused(graph: onnx.GraphProto, replaced: set[str]) -> None:
    """Remove the casts whose outputs were replaced, and everything that is then unused."""
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.output[0] in replaced]:
        graph.node.remove(node)
    while True:
        used = {name for node in graph.node for name in node.input} | outputs
        dead = [node for node in graph.node if not used & set(node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def nodes_before_logarithms(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the logarithms of a graph and of all nodes that they depend on."""
    makers = {output: node for node in graph.node for output in node.output}
    pending = [node for node in graph.node if node.op_type == "Log"]
    names = []
    while pending:
        node = pending.pop()
        names.append(node.name)
        pending += [makers[name] for name in node.input if name in makers]
    return names
