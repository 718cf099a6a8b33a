"""Graphs that refer to other files or use operators outside the ONNX standard are rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from dimml.bundle import Bundle
from dimml.errors import BundleError
from dimml.onnx_check import check_graph
from dimml.runtime.session import Graph

FLOAT = TensorProto.FLOAT


def build_model() -> ModelProto:
    """Return a graph of `y = x + w` with tensors in a branch, in a function and in attributes."""
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(np.ones(2)))],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.DOUBLE, [2])],
    )
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
    ]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["n", 2]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [
        helper.make_tensor_value_info("y", FLOAT, ["n", 2]),
        helper.make_tensor_value_info("z", TensorProto.DOUBLE, [2]),
    ]
    weights = [numpy_helper.from_array(np.ones(2, np.float32), "w")]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(2)))
    model.functions.append(
        helper.make_function("ai.onnx", "Kept", [], ["k"], [constant], model.opset_import)
    )
    sparse = graph_of(model).sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.append(2)
    return model


def graph_of(model: ModelProto) -> Any:
    return model.graph


def attribute(node: Any, name: str) -> AttributeProto:
    return next(a for a in node.attribute if a.name == name)


def save(folder: Path, model: ModelProto) -> Path:
    path = folder / "front.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def check_error(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        check_graph(path)
    assert str(path) in caught.value.message
    assert "export the bundle again with `dimml export`" in caught.value.message
    return caught.value.message


def test_standard_graph_passes_and_runs(tmp_path: Path) -> None:
    path = save(tmp_path, build_model())
    check_graph(path)
    graph = Graph(path, "cpu")
    [y, z] = graph.run({"x": np.zeros((1, 2), np.float32), "c": np.array(True)})
    assert (y.tolist(), z.tolist()) == ([[1, 1]], [1, 1])


def test_exported_graphs_pass(tiny_bundle: Path, any_length_bundle: Path) -> None:
    for bundle in (tiny_bundle, any_length_bundle):
        graphs = Bundle.load(bundle).manifest.graphs
        assert len(graphs) == len(list(bundle.glob("*.onnx")))
        for graph in graphs:
            check_graph(bundle / graph)


TENSORS: dict[str, Callable[[ModelProto], TensorProto]] = {
    "weight": lambda model: model.graph.initializer[0],
    "constant in a branch": lambda model: (
        attribute(attribute(model.graph.node[1], "then_branch").g.node[0], "value").t
    ),
    "constant in a function": lambda model: attribute(model.functions[0].node[0], "value").t,
    "values of a sparse weight": lambda model: model.graph.sparse_initializer[0].values,
    "indices of a sparse weight": lambda model: model.graph.sparse_initializer[0].indices,
    "attribute with a list": lambda model: attribute_tensors(model),
}


def attribute_tensors(model: ModelProto) -> TensorProto:
    tensor_list = model.graph.node[0].attribute.add(name="tensor_list", type=AttributeProto.TENSORS)
    tensor_list.tensors.append(numpy_helper.from_array(np.ones(2), "t"))
    return tensor_list.tensors[0]


class TestExternalData:
    @pytest.mark.parametrize("where", TENSORS)
    @pytest.mark.parametrize("mark", ["location", "entry"])
    def test_external_data_of_any_tensor_is_rejected(
        self, tmp_path: Path, where: str, mark: str
    ) -> None:
        model = build_model()
        tensor = TENSORS[where](model)
        tensor.name = "external"
        if mark == "location":
            tensor.data_location = TensorProto.EXTERNAL
        else:
            tensor.external_data.add(key="location", value="../secret")
        message = check_error(save(tmp_path, model))
        assert "stores its tensor 'external' outside the file (external data)" in message

    def test_existing_external_data_is_rejected(self, tmp_path: Path) -> None:
        path = tmp_path / "front.onnx"
        onnx.save(
            build_model(), path, save_as_external_data=True, location="front.data", size_threshold=0
        )
        assert (tmp_path / "front.data").is_file()
        assert "external data" in check_error(path)


class TestDomains:
    @pytest.mark.parametrize("domain", ["com.example", "ai.onnx.training"])
    def test_import_of_another_domain_is_rejected(self, tmp_path: Path, domain: str) -> None:
        model = build_model()
        model.opset_import.append(helper.make_opsetid(domain, 1))
        message = check_error(save(tmp_path, model))
        assert f"operators of the domain {domain!r}" in message
        assert "ai.onnx, ai.onnx.ml" in message

    @pytest.mark.parametrize("where", ["graph", "branch", "function"])
    def test_node_of_another_domain_is_rejected(self, tmp_path: Path, where: str) -> None:
        model = build_model()
        branch = attribute(model.graph.node[1], "else_branch").g
        nodes = {"graph": model.graph, "branch": branch, "function": model.functions[0]}
        nodes[where].node[0].domain = "com.example"
        assert "'com.example'" in check_error(save(tmp_path, model))

    @pytest.mark.parametrize(
        ("operator", "accepted"), [("MatMulIntegerToFloat", True), ("Gelu", False)]
    )
    def test_only_listed_operators_of_the_runtime_pass(
        self, tmp_path: Path, operator: str, accepted: bool
    ) -> None:
        model = build_model()
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        node = model.graph.node[0]
        node.domain, node.op_type = "com.microsoft", operator
        if accepted:
            check_graph(save(tmp_path, model))
        else:
            assert "'com.microsoft'" in check_error(save(tmp_path, model))

    def test_function_of_another_domain_is_rejected(self, tmp_path: Path) -> None:
        model = build_model()
        model.functions[0].domain = "com.example"
        assert "'com.example'" in check_error(save(tmp_path, model))

    @pytest.mark.parametrize("domain", ["ai.onnx", "ai.onnx.ml"])
    def test_standard_domain_passes(self, tmp_path: Path, domain: str) -> None:
        model = build_model()
        model.opset_import.append(helper.make_opsetid(domain, 1))
        check_graph(save(tmp_path, model))
        model.opset_import[-1].domain = "com.example"
        check_error(save(tmp_path, model))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ORTM",
        b"not a graph",
        b"\x80\x04N.",
        build_model().SerializeToString()[:-3],
        b"\n" * 9,
    ],
    ids=["empty", "another format", "text", "pickle", "truncated", "lines"],
)
def test_file_without_a_model_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "front.onnx"
    path.write_bytes(content)
    assert "is not an ONNX model" in check_error(path)


def test_file_name_does_not_decide_the_format(tmp_path: Path) -> None:
    path = tmp_path / "front.ort"
    save(tmp_path, build_model()).rename(path)
    check_graph(path)
    assert set(Graph(path, "cpu").inputs) == {"x", "c"}
    # By default onnxruntime goes by the name, and reads a format that nothing has checked.
    with pytest.raises(Exception, match="ORT"):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
