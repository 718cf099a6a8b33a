"""Sessions of onnxruntime, each with one loaded ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from dimml.errors import BundleError
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

SLOW_ON_CPU = ["SkipLayerNormFusion"]
"""Optimisations of onnxruntime that are switched off on the CPU. The fused sum and normalisation
takes ten times as long there as the two operators."""


class Graph:
    """One loaded ONNX graph.

    Args:
        model: File of the graph.
        provider: Execution provider to use.
        threads: onnxruntime threads for operators on the CPU.
        gpu: Options of the GPU.

    Attributes:
        provider: Execution provider of the session.
        session: Session of onnxruntime, for `dimml.runtime.cuda`.
        inputs, outputs: Name to shape. A free axis has a name as its size.

    Raises:
        BundleError: If onnxruntime cannot load the graph, even on the CPU.
        ProviderError: If the session does not use the provider.
    """

    def __init__(
        self,
        model: Path,
        provider: Provider,
        threads: int = 1,
        gpu: GpuOptions | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The threads of several sessions in one process would spin on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only
        # The providers use the default logger, which warns of each CUDA session.
        onnxruntime.set_default_logger_severity(3)
        # By default the file name decides, and nothing here checks onnxruntime's own format.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        gpu = gpu or GpuOptions()
        try:
            # The fallback of onnxruntime would print a message and use another provider.
            self.session = onnxruntime.InferenceSession(
                str(model),
                options,
                providers=execution_providers(provider, gpu),
                disabled_optimizers=SLOW_ON_CPU if provider == "cpu" else [],
                enable_fallback=0,
            )
        except Exception as error:
            problem = f"onnxruntime cannot load {model}: {error}"
            if provider == "cpu":
                raise BundleError(problem) from error
            # If the graph does not load on the CPU either, this raises a `BundleError`.
            Graph(model, "cpu")
            raise compute_error(provider, gpu, problem) from error
        self.provider = PROVIDER_NAMES[self.session.get_providers()[0]]
        if self.provider != provider:
            problem = unavailable_reason(provider) or f"onnxruntime fell back to {self.provider}"
            raise provider_error(provider, problem)
        self.inputs = {node.name: node.shape for node in self.session.get_inputs()}
        self.outputs = {node.name: node.shape for node in self.session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray], options: Any = None) -> list[np.ndarray]:
        """Run the graph with the run options of onnxruntime, and return its outputs in order."""
        outputs: list[np.ndarray] = self.session.run(None, dict(inputs), options)
        return outputs


def execution_providers(provider: Provider, gpu: GpuOptions) -> list[Any]:
    """Return the providers of onnxruntime with their options, the requested provider first."""
    if provider == "cpu":
        return [CPU]
    cuda = {
        "device_id": str(gpu.device),
        "use_tf32": str(int(gpu.tf32)),
        # An exhaustive search for the fastest convolution takes seconds for every new shape.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default grows the arena by powers of two, up to twice the memory in use.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if gpu.memory is not None:
        cuda["gpu_mem_limit"] = str(gpu.memory)
    if provider == "cuda":
        if gpu.cuda_graphs:
            cuda["enable_cuda_graph"] = "1"
        return [(CUDA, cuda), CPU]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dimml", "tensorrt")
    tensorrt = {
        "device_id": str(gpu.device),
        # TensorRT takes minutes to build an engine for a graph, a GPU and a version.
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
    }
    if gpu.memory is not None:
        tensorrt["trt_max_workspace_size"] = str(gpu.memory)
    return [(TENSORRT, tensorrt), (CUDA, cuda), CPU]
