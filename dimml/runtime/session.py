"""Sessions of onnxruntime: one ONNX graph, ready to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from dimml.errors import BundleError, ProviderError
from dimml.runtime.providers import (
    CPU,
    CUDA,
    PROVIDER_NAMES,
    TENSORRT,
    GpuOptions,
    Provider,
    compute_error,
    provider_error,
    unavailable_reason,
)

ONNXRUNTIME_VERSION: str = onnxruntime.__version__


class Graph:
    """One ONNX graph, ready to run.

    Args:
        model: its file, or the serialised model.
        provider: where it runs.
        threads: of onnxruntime, for what runs on the CPU.
        gpu: how the GPU is used, where there is one.

    Attributes:
        provider: the one its session truly got.
        session: onnxruntime's, for `dimml.runtime.cuda`.
        inputs, outputs: name to shape; a dimension that is free has a name.

    Raises:
        BundleError: onnxruntime cannot load it, on the CPU neither.
        ProviderError: its session did not get the provider.
    """

    def __init__(
        self,
        model: Path | bytes,
        provider: Provider,
        threads: int = 1,
        gpu: GpuOptions | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Several sessions that spin in one process take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # By its name a file could pass for onnxruntime's own format, which nothing here checks.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        gpu = gpu or GpuOptions()
        source = model if isinstance(model, bytes) else str(model)
        name = "a graph" if isinstance(model, bytes) else str(model)
        try:
            # Without its own fallback, which prints, and goes on with another provider.
            self.session = onnxruntime.InferenceSession(
                source, options, providers=execution_providers(provider, gpu), enable_fallback=0
            )
        except Exception as error:
            if provider == "cpu":
                raise BundleError(f"onnxruntime cannot load {name}: {error}") from error
            if gpu.cuda_graphs and "graph" in str(error):
                raise ProviderError(
                    f"{name} cannot be recorded as a CUDA graph ({error}); set cuda_graphs off"
                ) from error
            # If the CPU cannot load it either, the bundle is to blame.
            Graph(model, "cpu")
            raise compute_error(
                provider, gpu, f"onnxruntime cannot load {name}: {error}"
            ) from error
        self.provider = PROVIDER_NAMES[self.session.get_providers()[0]]
        if self.provider != provider:
            problem = unavailable_reason(provider) or f"onnxruntime fell back to {self.provider}"
            raise provider_error(provider, problem)
        self.inputs = {node.name: node.shape for node in self.session.get_inputs()}
        self.outputs = {node.name: node.shape for node in self.session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs, in its order."""
        outputs: list[np.ndarray] = self.session.run(None, dict(inputs))
        return outputs


def execution_providers(provider: Provider, gpu: GpuOptions) -> list[Any]:
    """Onnxruntime's providers, the wanted one first, with their options."""
    if provider == "cpu":
        return [CPU]
    # Found by trying, the fastest convolution costs seconds for every new shape.
    cuda = {
        "device_id": str(gpu.device),
        "use_tf32": str(int(gpu.tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",
        # By powers of two, memory would grow to twice what is used.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if gpu.memory is not None:
        cuda["gpu_mem_limit"] = str(gpu.memory)
    if gpu.cuda_graphs and provider == "cuda":
        cuda["enable_cuda_graph"] = "1"
    if provider == "cuda":
        return [(CUDA, cuda), CPU]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dimml", "tensorrt")
    tensorrt = {
        "device_id": str(gpu.device),
        # Building an engine takes minutes; it depends on the graph, the GPU and the version.
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
    }
    if gpu.memory is not None:
        tensorrt["trt_max_workspace_size"] = str(gpu.memory)
    return [(TENSORRT, tensorrt), (CUDA, cuda), CPU]
