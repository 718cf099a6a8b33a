from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dimml.errors import BundleError, ProviderError
from dimml.runtime.providers import CPU, CUDA, TENSORRT, GpuOptions
from dimml.runtime.session import Graph, execution_providers

SIZE = 64


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a graph of `y = tanh(x @ w)` with x float32 [N, 64]."""
    weights = np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32) / 8
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Tanh", ["product"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", SIZE])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("graphs") / "tiny.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


class TestGraph:
    def test_graph_runs_on_the_cpu(self, graph_path: Path) -> None:
        graph = Graph(graph_path, "cpu")
        assert (graph.provider, list(graph.inputs)) == ("cpu", ["x"])
        [zeros] = graph.run({"x": np.zeros((3, SIZE), np.float32)})
        np.testing.assert_array_equal(zeros, np.zeros((3, SIZE), np.float32))

    def test_sum_and_normalisation_are_not_fused_on_the_cpu(
        self, graph_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options: dict[str, Any] = {}
        create = onnxruntime.InferenceSession

        def spy(*arguments: Any, **settings: Any) -> Any:
            options.update(settings)
            return create(*arguments, **settings)

        monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
        Graph(graph_path, "cpu")
        assert options["disabled_optimizers"] == ["SkipLayerNormFusion"]

    @pytest.mark.parametrize("content", [b"", b"not a graph", None, "truncated"])
    def test_corrupt_graph_is_a_bundle_error(
        self, graph_path: Path, tmp_path: Path, content: bytes | str | None
    ) -> None:
        path = tmp_path / "graph.onnx"
        if content is not None:
            complete = graph_path.read_bytes()
            path.write_bytes(complete[: len(complete) // 2] if content == "truncated" else content)
        with pytest.raises(BundleError, match=r"graph\.onnx"):
            Graph(path, "cpu")

    def test_session_on_another_provider_is_rejected(
        self, graph_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dimml.runtime.session.unavailable_reason", lambda _: None)
        session = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime,
            "InferenceSession",
            lambda path, options, providers, **_: session(path, options, providers=[CPU]),
        )
        with pytest.raises(ProviderError, match="fell back to cpu"):
            Graph(graph_path, "cuda")


class TestExecutionProviders:
    def test_gpu_options_become_cuda_options(self) -> None:
        [(name, options), last] = execution_providers(
            "cuda", GpuOptions(1, 2**30, tf32=True, cuda_graphs=True)
        )
        assert (name, last) == (CUDA, CPU)
        assert options == {
            "device_id": "1",
            "use_tf32": "1",
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": str(2**30),
            "enable_cuda_graph": "1",
        }
        assert "enable_cuda_graph" not in execution_providers("cuda", GpuOptions())[0][1]
        assert execution_providers("cuda", GpuOptions())[0][1]["use_tf32"] == "0"
        assert "gpu_mem_limit" not in execution_providers("cuda", GpuOptions())[0][1]

    def test_tensorrt_caches_engines_and_falls_back_to_cuda(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first, second, last = execution_providers("tensorrt", GpuOptions())
        assert (first[0], second[0], last) == (TENSORRT, CUDA, CPU)
        assert first[1]["trt_engine_cache_path"] == str(tmp_path / "dimml" / "tensorrt")

    def test_cpu_provider_has_no_options(self) -> None:
        assert execution_providers("cpu", GpuOptions()) == [CPU]


@pytest.mark.gpu
def test_graph_agrees_on_cuda_and_cpu(graph_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((33, SIZE)).astype(np.float32)
    on_cuda, on_cpu = Graph(graph_path, "cuda"), Graph(graph_path, "cpu")
    assert (on_cuda.provider, on_cpu.provider) == ("cuda", "cpu")
    [actual], [expected] = on_cuda.run({"x": x}), on_cpu.run({"x": x})
    np.testing.assert_allclose(actual, expected, atol=1e-3)
