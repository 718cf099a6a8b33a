"""float16 encoders for GPUs: half the memory, and the full speed of tensor cores."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel


def halve_graph(source: Path, target: Path) -> None:
    """Convert one encoder to float16; its inputs and features stay float32.

    The layers before a logarithm stay float32 too, because the power spectrogram spans ten powers
    of ten and float16 only nine. So do means: on a GPU, onnxruntime divides a float16 sum by a
    float16 count, and both overflow above 65504.

    Args:
        source: The fp32 graph.
        target: The file to write.
    """
    whole = onnx.load(source)
    means = [node.name for node in whole.graph.node if node.op_type == "ReduceMean"]
    kept = [*nodes_before_logarithms(whole.graph), *means]
    half = OnnxModel(convert_float_to_float16(whole, keep_io_types=True, node_block_list=kept))
    _undo_round_trips(half, onnx.load(source))
    half.prune_graph(allow_remove_graph_inputs=False)
    OnnxModel.graph_topological_sort(half.model.graph)
    onnx.save(half.model, target)


def _undo_round_trips(half: OnnxModel, whole: onnx.ModelProto) -> None:
    """Feed float32 nodes the original values, which the converter casts to float16 and back."""
    makers = half.output_name_to_node()
    constants = {tensor.name: tensor for tensor in whole.graph.initializer}
    graph = onnx.shape_inference.infer_shapes(whole).graph
    values = [*graph.input, *graph.value_info]
    others = {v.name for v in values if v.type.tensor_type.elem_type != onnx.TensorProto.FLOAT}
    for node in half.get_nodes_by_op_type("Cast"):
        if node.attribute[0].i != onnx.TensorProto.FLOAT:
            continue
        [source], [rounded] = node.input, node.output
        if source in constants:
            exact = f"{source}_float32"
            if half.get_initializer(exact) is None:
                tensor = half.model.graph.initializer.add()
                tensor.CopyFrom(constants[source])
                tensor.name = exact
        elif source in makers and makers[source].op_type == "Cast":
            exact = makers[source].input[0]
            if exact in others:
                # A mask, which this cast can take as it is.
                node.input[0] = exact
                continue
        else:
            continue
        half.replace_input_of_all_nodes(rounded, exact)


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
