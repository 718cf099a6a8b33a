"""How a service uses its machine, where the settings leave it open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from dimml.machine import available_cores, cuda_devices
from dimml.probe import settle_provider
from dimml.runtime.providers import GpuOptions, choose_provider
from serving.settings import PREFIX, Settings, get_settings

MAX_DEFAULT_WORKERS = 16
"""A worker holds the bundle and about 150 MB of libraries."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the workers do with the cores, or the GPU, that there are.

    Attributes:
        provider: "cpu", "cuda" or "tensorrt": what is asked of onnxruntime.
        workers: processes: one per core on the CPU, one per GPU where they are used.
        threads: of one worker, to decode with and inside its graphs: the cores shared out.
        max_batch: requests computed together.
        queue: requests that may wait in one worker while a batch is computed.
    """

    provider: str
    workers: int
    threads: int
    max_batch: int
    queue: int

    def __str__(self) -> str:
        return (
            f"{self.provider}, {self.workers} workers of {self.threads} threads, "
            f"batches of up to {self.max_batch}, queue of {self.queue}"
        )


def plan(settings: Settings) -> Capacity:
    """The plan for this machine: its cgroup's quota, its affinity, its GPUs and the settings."""
    # Where one asked for by name cannot be had, loading the bundle says so.
    asked = settings.providers
    provider = choose_provider(asked) if asked == "auto" else asked
    on_gpu = provider != "cpu"
    cores = available_cores()
    usual = max(1, cuda_devices()) if on_gpu else min(cores, MAX_DEFAULT_WORKERS)
    workers = settings.workers or usual
    most = settings.max_batch or (64 if on_gpu else 16)
    return Capacity(
        provider=provider,
        workers=workers,
        threads=settings.threads or max(1, cores // workers),
        max_batch=most,
        queue=settings.queue or most,
    )


def settle(settings: Settings) -> None:
    """Settles on which provider the workers, which take it from the environment, shall compute.

    Raises:
        ProviderError: the one asked for does not compute.
    """
    most = plan(settings).max_batch
    found = settle_provider(settings.bundle, settings.providers, gpu_of(settings), most)
    os.environ[f"{PREFIX}PROVIDERS"] = found
    get_settings.cache_clear()
    get_capacity.cache_clear()


def gpu_of(settings: Settings, device: int = 0) -> GpuOptions:
    """How a worker uses its GPU."""
    return GpuOptions(device, settings.gpu_memory, settings.tf32, settings.cuda_graphs)


@cache
def get_capacity() -> Capacity:
    """The plan of this process, made once."""
    return plan(get_settings())
