"""Products in 8 bits whose activations have one scale per row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dimml.onnx_check import check_graph
from dimml.runtime.session import Graph
from export.products import WEIGHT_LIMIT, quantize_products

WIDTH = 16
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    name: RANDOM.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    for name in ("query", "key", "projection")
}


@pytest.fixture
def graphs(tmp_path: Path) -> tuple[Path, Path]:
    """Write two products of one input, their sum's projection, and the same in 8 bits."""
    nodes = [
        helper.make_node("MatMul", ["x", "query"], ["q"], "node_query"),
        helper.make_node("MatMul", ["x", "key"], ["k"], "node_key"),
        helper.make_node("Add", ["q", "k"], ["sum"]),
        helper.make_node("MatMul", ["sum", "projection"], ["y"], "node_projection"),
    ]
    shape = ["batch", "tokens", WIDTH]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, name) for name, weight in WEIGHTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(model, fp32)
    quantize_products(fp32, int8)
    return fp32, int8


def inputs(rows: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, 3, WIDTH)).astype(np.float32)


def test_products_in_8_bits_are_close_to_fp32(graphs: tuple[Path, Path]) -> None:
    [exact], [rounded] = (Graph(path, "cpu").run({"x": inputs(4)}) for path in graphs)
    error = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
    assert 1e-6 < error < 0.03


def test_row_is_computed_alike_beside_a_row_of_other_size(graphs: tuple[Path, Path]) -> None:
    graph = Graph(graphs[1], "cpu")
    x = inputs(3) * np.float32([1, 1e6, 1e-6]).reshape(3, 1, 1)
    [together] = graph.run({"x": x})
    for row in range(3):
        [alone] = graph.run({"x": x[row : row + 1]})
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-6)


def test_row_of_zeros_stays_zero(graphs: tuple[Path, Path]) -> None:
    x = inputs(2)
    x[0] = 0
    [y] = Graph(graphs[1], "cpu").run({"x": x})
    np.testing.assert_array_equal(y[0], 0)
    assert np.abs(y[1]).min() > 0


def test_input_of_several_products_is_quantised_once(graphs: tuple[Path, Path]) -> None:
    nodes = onnx.load(graphs[1]).graph.node
    operators = [node.op_type for node in nodes]
    assert operators.count("MatMulIntegerToFloat") == 2
    assert operators.count("QuantizeLinear") == 1


def test_weights_use_seven_bits_and_the_projection_stays_float(graphs: tuple[Path, Path]) -> None:
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(graphs[1]).graph.initializer}
    integers = {name: t for name, t in tensors.items() if t.dtype == np.int8}
    assert set(integers) == {"query_int8", "key_int8"}
    assert all(np.abs(weight).max() == WEIGHT_LIMIT == 63 for weight in integers.values())
    np.testing.assert_array_equal(tensors["projection"], WEIGHTS["projection"])
    # The fp32 weights of the products are gone.
    assert "query" not in tensors


def test_graph_of_8_bit_products_may_be_part_of_a_bundle(graphs: tuple[Path, Path]) -> None:
    onnx.checker.check_model(onnx.load(graphs[1]))
    check_graph(graphs[1])


def test_graph_without_products_is_not_changed(graphs: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(graphs[0])
    for node in model.graph.node:
        node.op_type = "Add"
    onnx.save(model, tmp_path / "sums.onnx")
    quantize_products(tmp_path / "sums.onnx", tmp_path / "same.onnx")
    assert onnx.load(tmp_path / "same.onnx") == model
