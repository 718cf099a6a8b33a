from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dimml import machine as machine_module
from dimml.errors import BundleError, ProviderError, UsageError
from dimml.machine import available_cores
from dimml.runtime.providers import CPU, CUDA, TENSORRT, GpuOptions, choose_provider
from dimml.runtime.session import Graph, execution_providers

SIZE = 64


@pytest.fixture(scope="module")
def graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph of `y = tanh(x @ w)`, x float32 [N, 64]."""
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


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | int]:
    """A machine with CUDA. What a test adds is missing: a library, or "cuInit" with its answer."""
    missing: dict[str, str | int] = {}

    def load(name: str, mode: int = 0) -> SimpleNamespace:
        for library, message in missing.items():
            if library in name:
                raise OSError(message)
        return SimpleNamespace(
            cuInit=lambda flags: missing.get("cuInit", 0),
            cuDriverGetVersion=lambda to: write(to, missing.get("driver", 99_000)),
        )

    def write(to: Any, value: int | str) -> None:
        to._obj.value = value

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    return missing


NO_FILE = "{}: cannot open shared object file: No such file or directory"
NO_DRIVER = {"libcuda.so.1": NO_FILE.format("libcuda.so.1")}
NO_CUBLAS = {"providers_cuda": NO_FILE.format("libcublasLt.so.13")}
NO_CUDNN = {"libcudnn": NO_FILE.format("libcudnn.so.9")}
PROBLEMS = [
    (NO_DRIVER, "the NVIDIA driver is missing (libcuda.so.1 could not be loaded)"),
    (NO_CUBLAS, "the library libcublasLt.so.13 could not be loaded"),
    (NO_CUDNN, "the library libcudnn.so.9 could not be loaded"),
    (NO_DRIVER | NO_CUDNN, "the NVIDIA driver is missing"),
    (NO_DRIVER | NO_CUDNN, "the library libcudnn.so.9 could not be loaded"),
    ({"cuInit": 100}, "the NVIDIA driver finds no usable GPU (cuInit answers 100)"),
    ({"driver": 12_040}, "the NVIDIA driver is too old (it runs CUDA 12, this onnxruntime needs "),
]


class TestChooseProvider:
    @pytest.mark.parametrize(
        ("providers", "chosen"),
        [("auto", "cuda"), ("cuda", "cuda"), ("tensorrt", "tensorrt"), ("cpu", "cpu")],
    )
    def test_with_cuda(self, machine: dict[str, str | int], providers: str, chosen: str) -> None:
        assert choose_provider(providers) == chosen

    @pytest.mark.parametrize(("missing", "says"), PROBLEMS)
    def test_cuda_that_cannot_be_had_is_refused_with_what_to_do(
        self, machine: dict[str, str | int], missing: dict[str, str | int], says: str
    ) -> None:
        machine.update(missing)
        with pytest.raises(ProviderError) as caught:
            choose_provider("cuda")
        assert says in caught.value.message
        for way_out in ("NVIDIA driver", "pip install -e '.[cuda]'", "providers=cpu"):
            assert way_out in caught.value.message

    @pytest.mark.parametrize(("missing", "says"), PROBLEMS)
    def test_auto_is_then_the_cpu_and_says_so_once(
        self,
        machine: dict[str, str | int],
        missing: dict[str, str | int],
        says: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        machine.update(missing)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("auto") == "cpu"
        [message] = caplog.messages
        assert message.startswith("provider cpu: ")
        assert says in message

    def test_the_cpu_is_chosen_without_a_look_for_cuda(
        self, machine: dict[str, str | int], caplog: pytest.LogCaptureFixture
    ) -> None:
        machine.update(NO_DRIVER)
        with caplog.at_level(logging.INFO, "dimml"):
            assert choose_provider("cpu") == "cpu"
        assert caplog.messages == []

    def test_tensorrt_names_its_own_library_and_its_extra(
        self, machine: dict[str, str | int]
    ) -> None:
        machine["providers_tensorrt"] = NO_FILE.format("libnvinfer.so.10")
        assert choose_provider("cuda") == "cuda"
        with pytest.raises(ProviderError) as caught:
            choose_provider("tensorrt")
        assert "the library libnvinfer.so.10 could not be loaded" in caught.value.message
        for way_out in ("pip install -e '.[cuda,tensorrt]'", "providers=cuda or cpu"):
            assert way_out in caught.value.message

    def test_an_onnxruntime_without_cuda_is_named(
        self, machine: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        with pytest.raises(ProviderError, match="it is not onnxruntime-gpu"):
            choose_provider("cuda")

    def test_nothing_is_printed(
        self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        choose_provider("auto")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("providers", ["", "CPU", "gpu", "CUDAExecutionProvider"])
    def test_an_unknown_one_is_refused_with_those_known(self, providers: str) -> None:
        with pytest.raises(UsageError, match="known: auto, cuda, tensorrt, cpu"):
            choose_provider(providers)


class TestGraph:
    def test_it_runs_on_the_cpu(self, graph_path: Path) -> None:
        graph = Graph(graph_path, "cpu")
        assert (graph.provider, list(graph.inputs)) == ("cpu", ["x"])
        [zeros] = graph.run({"x": np.zeros((3, SIZE), np.float32)})
        np.testing.assert_array_equal(zeros, np.zeros((3, SIZE), np.float32))

    @pytest.mark.parametrize("content", [b"", b"not a graph", None, "cut"])
    def test_a_corrupt_one_is_an_error_of_the_bundle(
        self, graph_path: Path, tmp_path: Path, content: bytes | str | None
    ) -> None:
        path = tmp_path / "graph.onnx"
        if content is not None:
            whole = graph_path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
        with pytest.raises(BundleError, match=r"graph\.onnx"):
            Graph(path, "cpu")

    def test_a_session_that_fell_back_to_the_cpu_is_refused(
        self, graph_path: Path, machine: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime,
            "InferenceSession",
            lambda path, options, providers, **_: session(path, options, providers=[CPU]),
        )
        with pytest.raises(ProviderError, match="fell back to cpu"):
            Graph(graph_path, "cuda")


class TestExecutionProviders:
    def test_those_of_cuda(self) -> None:
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

    def test_tensorrt_keeps_its_engines_and_leaves_the_rest_to_cuda(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        first, second, last = execution_providers("tensorrt", GpuOptions())
        assert (first[0], second[0], last) == (TENSORRT, CUDA, CPU)
        assert first[1]["trt_engine_cache_path"] == str(tmp_path / "dimml" / "tensorrt")

    def test_the_cpu_has_none(self) -> None:
        assert execution_providers("cpu", GpuOptions()) == [CPU]


class TestAvailableCores:
    @pytest.mark.parametrize(
        ("affinity", "quota", "cores"),
        [
            (8, None, 8),
            (8, "max 100000", 8),
            (8, "200000 100000", 2),
            (8, "250000 100000", 2),
            (8, "50000 100000", 1),
            (2, "400000 100000", 2),
            (8, "", 8),
            (8, "garbage", 8),
        ],
    )
    def test_it_is_the_lesser_of_affinity_and_quota(
        self,
        affinity: int,
        quota: str | None,
        cores: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        if quota is not None:
            (tmp_path / "cpu.max").write_text(quota + "\n")
        monkeypatch.setattr(machine_module, "CPU_QUOTA", tmp_path / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
        assert available_cores() == cores

    @pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
    def test_it_is_the_machine_s_where_there_is_no_affinity(
        self, count: int | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machine_module, "CPU_QUOTA", tmp_path / "none")
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        assert available_cores() == cores


@pytest.mark.gpu
class TestCuda:
    def test_auto_is_cuda(self) -> None:
        assert choose_provider("auto") == "cuda"

    def test_it_agrees_with_the_cpu(self, graph_path: Path) -> None:
        x = np.random.default_rng(1).standard_normal((33, SIZE)).astype(np.float32)
        on_cuda, on_cpu = Graph(graph_path, "cuda"), Graph(graph_path, "cpu")
        assert (on_cuda.provider, on_cpu.provider) == ("cuda", "cpu")
        [found], [expected] = on_cuda.run({"x": x}), on_cpu.run({"x": x})
        np.testing.assert_allclose(found, expected, atol=1e-3)
