"""The machine: cores and GPUs that this process may use."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

DRIVER = "libcuda.so.1"

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


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
