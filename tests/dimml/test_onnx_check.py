"""A graph that reaches outside its file, or outside the ONNX standard, is refused by name."""

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


def model() -> ModelProto:
    """A graph of `y = x + w` with a branch, each holding a tensor, and a function beside it."""
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
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    constant = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.ones(2)))
    made.functions.append(
        helper.make_function("ai.onnx", "Kept", [], ["k"], [constant], made.opset_import)
    )
    sparse = graph_of(made).sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    sparse.dims.append(2)
    return made


def graph_of(made: ModelProto) -> Any:
    return made.graph


def attribute(node: Any, name: str) -> AttributeProto:
    return next(a for a in node.attribute if a.name == name)


def save(folder: Path, made: ModelProto) -> Path:
    path = folder / "front.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        check_graph(path)
    assert str(path) in caught.value.message
    assert "export the bundle again with `dimml export`" in caught.value.message
    return caught.value.message


def test_a_graph_of_the_standard_passes_and_its_parts_are_looked_at(tmp_path: Path) -> None:
    path = save(tmp_path, model())
    check_graph(path)
    graph = Graph(path, "cpu")
    [y, z] = graph.run({"x": np.zeros((1, 2), np.float32), "c": np.array(True)})
    assert (y.tolist(), z.tolist()) == ([[1, 1]], [1, 1])


def test_what_is_exported_passes(tiny_bundle: Path, any_length_bundle: Path) -> None:
    for bundle in (tiny_bundle, any_length_bundle):
        graphs = Bundle.load(bundle).manifest.graphs
        assert len(graphs) == len(list(bundle.glob("*.onnx")))
        for graph in graphs:
            check_graph(bundle / graph)


TENSORS: dict[str, Callable[[ModelProto], TensorProto]] = {
    "a weight": lambda made: made.graph.initializer[0],
    "a constant in a branch": lambda made: (
        attribute(attribute(made.graph.node[1], "then_branch").g.node[0], "value").t
    ),
    "a constant in a function": lambda made: attribute(made.functions[0].node[0], "value").t,
    "values of a sparse weight": lambda made: made.graph.sparse_initializer[0].values,
    "indices of a sparse weight": lambda made: made.graph.sparse_initializer[0].indices,
    "an attribute of several": lambda made: attribute_tensors(made),
}


def attribute_tensors(made: ModelProto) -> TensorProto:
    several = made.graph.node[0].attribute.add(name="several", type=AttributeProto.TENSORS)
    several.tensors.append(numpy_helper.from_array(np.ones(2), "t"))
    return several.tensors[0]


class TestExternalData:
    @pytest.mark.parametrize("where", TENSORS)
    @pytest.mark.parametrize("mark", ["location", "entry"])
    def test_of_any_tensor(self, tmp_path: Path, where: str, mark: str) -> None:
        made = model()
        tensor = TENSORS[where](made)
        tensor.name = "taken"
        if mark == "location":
            tensor.data_location = TensorProto.EXTERNAL
        else:
            tensor.external_data.add(key="location", value="../secret")
        message = refusal(save(tmp_path, made))
        assert "keeps its tensor 'taken' outside the file (external data)" in message

    def test_that_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "front.onnx"
        onnx.save(
            model(), path, save_as_external_data=True, location="front.data", size_threshold=0
        )
        assert (tmp_path / "front.data").is_file()
        assert "external data" in refusal(path)


class TestDomains:
    @pytest.mark.parametrize("domain", ["com.microsoft", "com.example", "ai.onnx.training"])
    def test_an_import(self, tmp_path: Path, domain: str) -> None:
        made = model()
        made.opset_import.append(helper.make_opsetid(domain, 1))
        message = refusal(save(tmp_path, made))
        assert f"operators of the domain {domain!r}" in message
        assert "ai.onnx, ai.onnx.ml" in message

    @pytest.mark.parametrize("where", ["graph", "branch", "function"])
    def test_a_node(self, tmp_path: Path, where: str) -> None:
        made = model()
        branch = attribute(made.graph.node[1], "else_branch").g
        nodes = {"graph": made.graph, "branch": branch, "function": made.functions[0]}
        nodes[where].node[0].domain = "com.example"
        assert "'com.example'" in refusal(save(tmp_path, made))

    def test_a_function(self, tmp_path: Path) -> None:
        made = model()
        made.functions[0].domain = "com.example"
        assert "'com.example'" in refusal(save(tmp_path, made))

    @pytest.mark.parametrize("domain", ["ai.onnx", "ai.onnx.ml"])
    def test_those_of_the_standard_pass(self, tmp_path: Path, domain: str) -> None:
        made = model()
        made.opset_import.append(helper.make_opsetid(domain, 1))
        check_graph(save(tmp_path, made))
        made.opset_import[-1].domain = "com.example"
        refusal(save(tmp_path, made))


@pytest.mark.parametrize(
    "content",
    [b"", b"ORTM", b"not a graph", b"\x80\x04N.", model().SerializeToString()[:-3], b"\n" * 9],
    ids=["empty", "another format", "text", "a pickle", "cut", "lines"],
)
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "front.onnx"
    path.write_bytes(content)
    assert "is not an ONNX model" in refusal(path)


def test_onnxruntime_reads_the_format_that_was_checked_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "front.ort"
    save(tmp_path, model()).rename(path)
    check_graph(path)
    assert set(Graph(path, "cpu").inputs) == {"x", "c"}
    # Left to itself it goes by the name, and would read a format that nothing has checked.
    with pytest.raises(Exception, match="ORT"):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
