"""Execution providers of onnxruntime: which can be had, and what is missing for the others."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime

from dimml.errors import ProviderError, UsageError
from dimml.machine import CUDA_DRIVER

Provider = Literal["cuda", "tensorrt", "cpu"]

PROVIDERS = ("auto", "cuda", "tensorrt", "cpu")
"""What can be asked for; "auto" is CUDA where it can be had, and the CPU elsewhere."""

TENSORRT = "TensorrtExecutionProvider"

CUDA = "CUDAExecutionProvider"

CPU = "CPUExecutionProvider"

PROVIDER_NAMES = {TENSORRT: "tensorrt", CUDA: "cuda", CPU: "cpu"}

LIBRARIES = {
    "cuda": "libonnxruntime_providers_cuda.so",
    "tensorrt": "libonnxruntime_providers_tensorrt.so",
}

MAX_PROBLEM_CHARACTERS = 400
"""Characters of an error of onnxruntime that are repeated."""

CUDNN = "libcudnn.so.9"

INSTALL_HINTS = {
    "cuda": "install the NVIDIA driver, and the CUDA libraries with `pip install -e '.[cuda]'`, "
    "or use providers=cpu",
    "tensorrt": "install the NVIDIA driver, and the libraries with "
    "`pip install -e '.[cuda,tensorrt]'`, or use providers=cuda or cpu",
}

logger = logging.getLogger("dimml")


@dataclass(frozen=True, slots=True)
class GpuOptions:
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
    problem = unavailable_reason(wanted)
    if problem is None:
        return wanted
    if providers != "auto":
        raise provider_error(wanted, problem)
    logger.info("provider cpu: %s", problem)
    return "cpu"


def unavailable_reason(provider: str) -> str | None:
    """Why a provider cannot be had, naming what is missing; None where nothing is missing."""
    if provider == "cpu":
        return None
    wanted = TENSORRT if provider == "tensorrt" else CUDA
    if wanted not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (it is not onnxruntime-gpu)"
    if hasattr(onnxruntime, "preload_dlls"):
        _preload()
    return " and ".join(filter(None, (_driver_problem(), _library_problem(provider)))) or None


def compute_error(provider: Provider, gpu: GpuOptions, problem: str) -> ProviderError:
    """The error of a provider that is there and yet does not compute."""
    # Onnxruntime's errors may end with pages of the graph.
    problem = " ".join(problem.split())[:MAX_PROBLEM_CHARACTERS]
    way_out = "`nvidia-smi` shows what the GPU does"
    if gpu.memory is not None:
        way_out = f"gpu_memory, {gpu.memory} bytes for a graph, may be too low"
    return provider_error(provider, problem, f"{way_out}, or use providers=cpu")


def provider_error(provider: str, problem: str, way_out: str | None = None) -> ProviderError:
    """The error of a provider: what was asked for, what is wrong, what to do."""
    name = "TensorRT" if provider == "tensorrt" else "CUDA"
    return ProviderError(
        f"{name} was asked for and {problem}; {way_out or INSTALL_HINTS[provider]}"
    )


def _preload() -> None:
    """Lets onnxruntime find CUDA and cuDNN in their Python packages; it prints what it lacks."""
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
        driver = ctypes.CDLL(CUDA_DRIVER)
        status = driver.cuInit(0)
        version = ctypes.c_int()
        driver.cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return f"the NVIDIA driver is missing ({CUDA_DRIVER} could not be loaded)"
    except AttributeError:
        return f"the NVIDIA driver is missing ({CUDA_DRIVER} is another library)"
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
