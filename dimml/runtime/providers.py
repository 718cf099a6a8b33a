"""Execution providers of onnxruntime: which are available, and what the others lack."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import onnxruntime

from dimml.errors import ProviderError, UsageError
from dimml.machine import CUDA_DRIVER

Provider = Literal["cuda", "tensorrt", "cpu"]

PROVIDERS = ("auto", *get_args(Provider))
"""Providers that a user can choose. "auto" is CUDA if available, else the CPU."""

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
PROVIDER_NAMES = {TENSORRT: "tensorrt", CUDA: "cuda", CPU: "cpu"}

CUDNN = "libcudnn.so.9"

INSTALL_HINTS = {
    "cuda": "install the NVIDIA driver, and the CUDA libraries with `pip install -e '.[cuda]'`, "
    "or use providers=cpu",
    "tensorrt": "install the NVIDIA driver, and the libraries with "
    "`pip install -e '.[cuda,tensorrt]'`, or use providers=cuda or cpu",
}

MAX_PROBLEM_CHARACTERS = 400
"""Characters of an onnxruntime error to repeat. Some errors end with pages of the graph."""

logger = logging.getLogger("dimml")


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a process uses its GPU.

    Attributes:
        device: Number of the GPU among those visible to the process.
        memory: Limit in bytes on the weights and results of each encoder, None for no limit.
        tf32: Whether float32 products may use tensor cores with a mantissa of 10 bits.
        cuda_graphs: Whether `Predictor.warm_up` records the kernels of an encoder once per input
            shape. A recorded encoder starts with one launch. Needs the provider CUDA.
    """

    device: int = 0
    memory: int | None = None
    tf32: bool = False
    cuda_graphs: bool = False


def choose_provider(providers: str) -> Provider:
    """Return the provider to use for one of `PROVIDERS`.

    "auto" is CUDA if available. Otherwise it is the CPU, and the log says why.

    Raises:
        ProviderError: If `providers` names a provider that is not available.
        UsageError: If `providers` is unknown.
    """
    if providers not in PROVIDERS:
        raise UsageError(f"unknown provider {providers!r}; known: {', '.join(PROVIDERS)}")
    provider = cast(Provider, "cuda" if providers == "auto" else providers)
    problem = unavailable_reason(provider)
    if problem is None:
        return provider
    if providers != "auto":
        raise provider_error(provider, problem)
    logger.info("provider cpu: %s", problem)
    return "cpu"


def unavailable_reason(provider: str) -> str | None:
    """Return what a provider lacks on this machine, or None if it is available."""
    if provider == "cpu":
        return None
    name = TENSORRT if provider == "tensorrt" else CUDA
    if name not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (it is not onnxruntime-gpu)"
    if hasattr(onnxruntime, "preload_dlls"):
        _preload_libraries()
    return " and ".join(filter(None, (_driver_problem(), _library_problem(provider)))) or None


def compute_error(provider: Provider, gpu: GpuOptions, problem: str) -> ProviderError:
    """Return the error for a provider that is available but does not work."""
    problem = " ".join(problem.split())[:MAX_PROBLEM_CHARACTERS]
    remedy = "run `nvidia-smi` to see what uses the GPU"
    if gpu.memory is not None:
        remedy = f"raise gpu_memory ({gpu.memory} bytes per encoder), which may be too low"
    if gpu.cuda_graphs:
        remedy += ", turn cuda_graphs off if the graph cannot be recorded"
    return provider_error(provider, problem, f"{remedy}, or use providers=cpu")


def provider_error(provider: str, problem: str, remedy: str | None = None) -> ProviderError:
    """Return the error for a requested provider: what is wrong and what to do."""
    name = "TensorRT" if provider == "tensorrt" else "CUDA"
    remedy = remedy or INSTALL_HINTS[provider]
    return ProviderError(f"{name} was requested, but {problem}; {remedy}")


def _preload_libraries() -> None:
    """Load CUDA, cuDNN and TensorRT from their Python packages, without printing."""
    # `preload_dlls` prints the libraries that it does not find.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    # `preload_dlls` does not know the package of TensorRT.
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
    # An AttributeError means that a library of this name is not the driver.
    except (OSError, AttributeError):
        return f"the NVIDIA driver is missing ({CUDA_DRIVER} could not be loaded)"
    if status:
        return f"the NVIDIA driver finds no usable GPU (cuInit returns {status})"
    supported, required = version.value // 1000, _required_cuda_major()
    if supported < required:
        return (
            f"the NVIDIA driver is too old (it supports CUDA {supported}, this onnxruntime needs "
            f"CUDA {required})"
        )
    return None


def _required_cuda_major() -> int:
    """Return the major CUDA version of onnxruntime. A driver for any minor version suffices."""
    from onnxruntime.capi import build_and_package_info

    return int(str(getattr(build_and_package_info, "cuda_version", "0")).partition(".")[0] or 0)


def _library_problem(provider: str) -> str | None:
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        # The provider libraries take symbols from this library, so it is loaded first.
        for path in folder.glob("libonnxruntime_providers_shared.so"):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name in dict.fromkeys(("cuda", provider)):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"))
        # onnxruntime loads cuDNN with the first convolution, which is too late for a fallback.
        ctypes.CDLL(CUDNN)
    except OSError as error:
        return f"the library {str(error).split(':', 1)[0]} could not be loaded"
    return None
