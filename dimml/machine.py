"""The machine: the resources that this process may use, and its description in result files."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SOURCE_ROOT = Path(__file__).resolve().parent.parent
"""The checkout that holds this package."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CUDA_DRIVER = "libcuda.so.1"
DESCRIBED_PACKAGES = ("torch", "onnxruntime-gpu", "bentoml", "numpy", "transformers")


def available_cores() -> int:
    """Return the number of cores that the CPU affinity and the cgroup quota allow."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores() or cores))


def cuda_devices() -> int:
    """Return the number of GPUs of the driver, which `CUDA_VISIBLE_DEVICES` can restrict."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL(CUDA_DRIVER)
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else count.value


def describe_machine() -> dict[str, Any]:
    """Describe the machine for a result file: processor, cores, memory, system and versions."""
    return {
        "processor": _cpu_model() or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": _installed_versions(),
    }


def _cgroup_cores() -> int | None:
    try:
        # Microseconds of processor time per period of wall time.
        quota, period = CPU_QUOTA.read_text().split()
        return None if quota == "max" else max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None


def _installed_versions() -> dict[str, str]:
    versions = {}
    for package in DESCRIBED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None
