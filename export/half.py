"""float16 encoders for GPUs: half the memory, and the full speed of tensor cores."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel


def halve_graph(source: Path, target: Path) -> None:
    """Convert one encoder to float16; its inputs and features stay float32.

    The layers before a logarithm stay float32 too, because the power spectrogram spans ten powers
    of ten and float16 only nine. So do the layers that normalise a waveform, which sum up more
    samples than float16 can count. And so do means: on a GPU, onnxruntime divides a float16 sum by
    a float16 count, and both overflow above 65504.

    Args:
        source: The fp32 graph.
        target: The file to write.
    """
    whole = onnx.load(source)
    means = [node.name for node in whole.graph.node if node.op_type == "ReduceMean"]
    kept = {*nodes_before_logarithms(whole.graph), *_waveform_nodes(whole.graph), *means}
    kept &= _float_nodes(whole)
    half = OnnxModel(
        convert_float_to_float16(whole, keep_io_types=True, node_block_list=sorted(kept))
    )
    _undo_round_trips(half, onnx.load(source).graph)
    half.prune_graph(allow_remove_graph_inputs=False)
    OnnxModel.graph_topological_sort(half.model.graph)
    onnx.save(half.model, target)


def _undo_round_trips(half: OnnxModel, whole: onnx.GraphProto) -> None:
    """Feed float32 nodes the original values, which the converter casts to float16 and back."""
    makers = half.output_name_to_node()
    constants = {tensor.name: tensor for tensor in whole.initializer}
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
        else:
            continue
        half.replace_input_of_all_nodes(rounded, exact)


def _float_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes with float outputs. The converter casts no others."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output]
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return {node.name for node in graph.node if floats.issuperset(filter(None, node.output))}


def _waveform_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that normalise the samples of a recording.

    They end at convolutions, and where masks compare positions with the length of the recording.
    """
    reached = {"waveform"}
    names = []
    # The nodes of a graph are sorted: each comes after those that it depends on.
    for node in graph.node:
        if node.op_type not in ("Conv", "Less") and reached.intersection(node.input):
            reached.update(node.output)
            names.append(node.name)
    return names


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
