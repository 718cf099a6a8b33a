"""The only importer of onnxruntime: providers, threads, sessions."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from dimml.errors import BundleError, ProviderError, UsageError

Provider = Literal["cuda", "tensorrt", "cpu"]
PROVIDERS = ("auto", "cuda", "tensorrt", "cpu")
"""What can be asked for; "auto" is CUDA where it can be had, and the CPU elsewhere."""

VERSION: str = onnxruntime.__version__
TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
NAMES = {TENSORRT: "tensorrt", CUDA: "cuda", CPU: "cpu"}
LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
}
MOST_SAID = 400
"""Characters of an error of onnxruntime that are repeated."""
DRIVER = "libcuda.so.1"
CUDNN = "libcudnn.so.9"
ENABLE = {
    "cuda": "install the NVIDIA driver, and the CUDA libraries with `pip install -e '.[cuda]'`, "
    "or use providers=cpu",
    "tensorrt": "install the NVIDIA driver, and the libraries with "
    "`pip install -e '.[cuda,tensorrt]'`, or use providers=cuda or cpu",
}
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

logger = logging.getLogger("dimml")


@dataclass(frozen=True, slots=True)
class Gpu:
    """How a process uses its GPU.

    Attributes:
        device: its number among those that the process sees.
        memory: bytes that each graph may take for weights and results; None for no limit.
        tf32: whether float32 products may be computed from 10 bits of mantissa, on tensor cores.
        cuda_graphs: whether an encoder's kernels are recorded once for each shape of its input
            that `Predictor.warm_up` shows it, and then launched as one.
    """

    device: int = 0
    memory: int | None = None
    tf32: bool = False
    cuda_graphs: bool = False


class Graph:
    """One ONNX graph, ready to run.

    Args:
        model: its file, or the serialised model.
        provider: where it runs.
        threads: of onnxruntime, for what runs on the CPU.
        gpu: how the GPU is used, where there is one.

    Attributes:
        provider: the one its session truly got.
        session: onnxruntime's, for `dimml.device`.
        inputs, outputs: name to shape; a dimension that is free has a name.

    Raises:
        BundleError: onnxruntime cannot load it, on the CPU neither.
        ProviderError: its session did not get the provider.
    """

    def __init__(
        self, model: Path | bytes, provider: Provider, threads: int = 1, gpu: Gpu | None = None
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Several sessions that spin in one process take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # By its name a file could pass for onnxruntime's own format, which nothing here checks.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        gpu = gpu or Gpu()
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
            raise failed_on(provider, gpu, f"onnxruntime cannot load {name}: {error}") from error
        self.provider = NAMES[self.session.get_providers()[0]]
        if self.provider != provider:
            problem = missing_for(provider) or f"onnxruntime fell back to {self.provider}"
            raise ProviderError(_refusal(provider, problem))
        self.inputs = {node.name: node.shape for node in self.session.get_inputs()}
        self.outputs = {node.name: node.shape for node in self.session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs, in its order."""
        outputs: list[np.ndarray] = self.session.run(None, dict(inputs))
        return outputs


def execution_providers(provider: Provider, gpu: Gpu) -> list[Any]:
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


def choose_provider(providers: str) -> Provider:
    """The provider that a request, one of `PROVIDERS`, comes down to.

    `auto` is CUDA where it can initialise and the CPU elsewhere, said once in the log.

    Raises:
        ProviderError: a provider was asked for by name and cannot be had.
        UsageError: any other word.
    """
    if providers not in PROVIDERS:
        raise UsageError(f"unknown provider {providers!r}; known: {', '.join(PROVIDERS)}")
    if providers == "cpu":
        return "cpu"
    wanted: Provider = "tensorrt" if providers == "tensorrt" else "cuda"
    problem = missing_for(wanted)
    if problem is None:
        return wanted
    if providers != "auto":
        raise ProviderError(_refusal(wanted, problem))
    logger.info("provider cpu: %s", problem)
    return "cpu"


def available_cores() -> int:
    """Cores this process may use: its affinity, and on Linux its cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores() or cores))


def cuda_devices() -> int:
    """GPUs that the driver shows to this process (CUDA_VISIBLE_DEVICES restricts them)."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL(DRIVER)
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else count.value


def _cgroup_cores() -> int | None:
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def missing_for(provider: str) -> str | None:
    """Why a provider cannot be had, naming what is missing; None where nothing is missing."""
    if provider == "cpu":
        return None
    wanted = TENSORRT if provider == "tensorrt" else CUDA
    if wanted not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (it is not onnxruntime-gpu)"
    if hasattr(onnxruntime, "preload_dlls"):
        _preload()
    return " and ".join(filter(None, (_driver_problem(), _library_problem(provider)))) or None


def failed_on(provider: Provider, gpu: Gpu, problem: str) -> ProviderError:
    """The error of a provider that is there and yet does not compute."""
    # Onnxruntime's errors may end with pages of the graph.
    problem = " ".join(problem.split())[:MOST_SAID]
    way_out = "`nvidia-smi` shows what the GPU does"
    if gpu.memory is not None:
        way_out = f"gpu_memory, {gpu.memory} bytes for a graph, may be too low"
    return ProviderError(_refusal(provider, problem, f"{way_out}, or use providers=cpu"))


def _refusal(provider: str, problem: str, way_out: str | None = None) -> str:
    name = "TensorRT" if provider == "tensorrt" else "CUDA"
    return f"{name} was asked for and {problem}; {way_out or ENABLE[provider]}"


def _preload() -> None:
    """Lets onnxruntime find CUDA and cuDNN in their Python packages; it prints what it lacks."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    # TensorRT's package is not among those that onnxruntime knows.
    if spec := importlib.util.find_spec("tensorrt_libs"):
        for folder in spec.submodule_search_locations or ():
            for name in ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"):
                with contextlib.suppress(OSError):
                    ctypes.CDLL(str(Path(folder, name)), mode=ctypes.RTLD_GLOBAL)


def _driver_problem() -> str | None:
    try:
        driver = ctypes.CDLL(DRIVER)
        status = driver.cuInit(0)
        version = ctypes.c_int()
        driver.cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return f"the NVIDIA driver is missing ({DRIVER} could not be loaded)"
    except AttributeError:
        return f"the NVIDIA driver is missing ({DRIVER} is another library)"
    if status:
        return f"the NVIDIA driver finds no usable GPU (cuInit answers {status})"
    has, needs = version.value // 1000, _cuda_major()
    if has < needs:
        return f"the NVIDIA driver is too old (it runs CUDA {has}, this onnxruntime needs {needs})"
    return None


def _cuda_major() -> int:
    """The CUDA that onnxruntime was built for; any driver that runs its first release will do."""
    from onnxruntime.capi import build_and_package_info

    return int(str(getattr(build_and_package_info, "cuda_version", "0")).partition(".")[0] or 0)


def _library_problem(provider: str) -> str | None:
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        # The provider library resolves symbols of this one, as onnxruntime loads it.
        for path in folder.glob("libonnxruntime_providers_shared.so"):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name in dict.fromkeys((LIBRARIES["cuda"], LIBRARIES[provider])):
            ctypes.CDLL(str(folder / name))
        # The provider loads it with the first convolution, and so too late to choose another.
        ctypes.CDLL(CUDNN)
    except OSError as error:
        return f"the library {str(error).split(':', 1)[0]} could not be loaded"
    return None
