"""The only importer of onnxruntime: providers, threads, sessions."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime

from dimml.errors import BundleError, ProviderError, UsageError

Providers = Literal["auto", "cuda", "cpu"]
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
NAMES = {CUDA: "cuda", CPU: "cpu"}
ENABLE_CUDA = "install it with `pip install -e '.[cuda]'`, or use providers=cpu"

logger = logging.getLogger("dimml")


class Graph:
    """One ONNX graph, ready to run.

    Attributes:
        provider: "cuda" or "cpu": the one its session truly got.
    """

    def __init__(self, path: Path, providers: Providers, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Several sessions that spin in one process take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        wanted = [(CUDA, {"use_tf32": "0"}), CPU] if providers == "cuda" else [CPU]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
        except Exception as error:
            raise BundleError(f"onnxruntime cannot load {path}: {error}") from error
        self.provider = NAMES[self._session.get_providers()[0]]
        if self.provider != providers:
            raise ProviderError(f"CUDA was asked for and {_missing_for_cuda()}; {ENABLE_CUDA}")
        self.input_names = tuple(node.name for node in self._session.get_inputs())

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


def _cgroup_cores() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def _missing_for_cuda() -> str | None:
    """Why CUDA cannot be had, naming the missing library; None where nothing is missing."""
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without it (it is not onnxruntime-gpu)"
    if hasattr(onnxruntime, "preload_dlls"):
        _preload()
    folder = Path(onnxruntime.__file__).parent / "capi"
    for library in ("libcuda.so.1", str(folder / "libonnxruntime_providers_cuda.so")):
        if problem := _load_problem(library, folder):
            return f"the library {problem} could not be loaded"
    return None


def _preload() -> None:
    """Lets onnxruntime find CUDA and cuDNN in their Python packages; it prints what it lacks."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _load_problem(library: str, folder: Path) -> str | None:
    try:
        # The provider library resolves symbols of this one, as onnxruntime loads it.
        shared: Sequence[Path] = sorted(folder.glob("libonnxruntime_providers_shared.so"))
        for path in shared:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(library)
    except OSError as error:
        return str(error).split(":", 1)[0]
    return None
