"""The only importer of onnxruntime: providers, threads, sessions."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from dimml.errors import BundleError, ProviderError, UsageError

Providers = Literal["auto", "cuda", "cpu"]
VERSION: str = onnxruntime.__version__
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
NAMES = {CUDA: "cuda", CPU: "cpu"}
DRIVER = "libcuda.so.1"
ENABLE_CUDA = (
    "install the NVIDIA driver, and the CUDA libraries with `pip install -e '.[cuda]'`, "
    "or use providers=cpu"
)
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

logger = logging.getLogger("dimml")


class Graph:
    """One ONNX graph, ready to run.

    Attributes:
        provider: "cuda" or "cpu": the one its session truly got.
        inputs, outputs: name to shape; a dimension that is free has a name.
    """

    def __init__(self, path: Path, providers: Providers, threads: int = 1, device: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Several sessions that spin in one process take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        # By its name a file could pass for onnxruntime's own format, which nothing here checks.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        wanted = (
            [(CUDA, {"device_id": str(device), "use_tf32": "0"}), CPU]
            if providers == "cuda"
            else [CPU]
        )
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:
            raise BundleError(f"onnxruntime cannot load {path}: {error}") from error
        self.provider = NAMES[self._session.get_providers()[0]]
        if self.provider != providers:
            problem = _missing_for_cuda() or "onnxruntime fell back to the CPU"
            raise ProviderError(f"CUDA was asked for and {problem}; {ENABLE_CUDA}")
        self.inputs = {node.name: node.shape for node in self._session.get_inputs()}
        self.outputs = {node.name: node.shape for node in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The graph's outputs, in its order."""
        outputs: list[np.ndarray] = self._session.run(None, dict(inputs))
        return outputs


def choose_provider(providers: str) -> Literal["cuda", "cpu"]:
    """The provider that a request for "auto", "cuda" or "cpu" comes down to.

    `auto` is CUDA where it can initialise and the CPU elsewhere, said once in the log.

    Raises:
        ProviderError: "cuda" was asked for and cannot be had.
        UsageError: any other word.
    """
    if providers not in ("auto", "cuda", "cpu"):
        raise UsageError(f"unknown provider {providers!r}; known: auto, cuda, cpu")
    if providers == "cpu":
        return "cpu"
    problem = _missing_for_cuda()
    if problem is None:
        return "cuda"
    if providers == "cuda":
        raise ProviderError(f"CUDA was asked for and {problem}; {ENABLE_CUDA}")
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
    except OSError:
        return 0
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _cgroup_cores() -> int | None:
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def _missing_for_cuda() -> str | None:
    """Why CUDA cannot be had, naming what is missing; None where nothing is missing."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (it is not onnxruntime-gpu)"
    if hasattr(onnxruntime, "preload_dlls"):
        _preload()
    return " and ".join(filter(None, (_driver_problem(), _library_problem()))) or None


def _preload() -> None:
    """Lets onnxruntime find CUDA and cuDNN in their Python packages; it prints what it lacks."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _driver_problem() -> str | None:
    try:
        status = ctypes.CDLL(DRIVER).cuInit(0)
    except OSError:
        return f"the NVIDIA driver is missing ({DRIVER} could not be loaded)"
    return f"the NVIDIA driver finds no usable GPU (cuInit answers {status})" if status else None


def _library_problem() -> str | None:
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        # The provider library resolves symbols of this one, as onnxruntime loads it.
        for path in folder.glob("libonnxruntime_providers_shared.so"):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"the library {str(error).split(':', 1)[0]} could not be loaded"
    return None
