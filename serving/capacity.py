"""The capacity of a service: what it uses of its machine where the settings leave that open."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from dimml.machine import available_cores, cuda_devices
from dimml.probe import settle_provider
from dimml.runtime.providers import GpuOptions, choose_provider
from serving.settings import PREFIX, Settings, get_settings

MAX_DEFAULT_WORKERS = 16
"""Each worker loads the bundle and about 150 MB of libraries."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How the workers use the cores or GPUs of the machine.

    Attributes:
        provider: The execution provider to request: "cpu", "cuda" or "tensorrt".
        workers: Number of processes: one per core on the CPU, one per GPU on GPUs.
        threads: Threads of a worker, for decoding and inside its graphs.
        max_batch: Maximum number of requests computed together.
        queue: Requests that may wait in a worker while a batch is computed.
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


def derive_capacity(settings: Settings) -> Capacity:
    """Derive the capacity from the cgroup's quota, the affinity, the GPUs and the settings."""
    # A provider that is requested by name and unavailable is an error when the bundle is loaded.
    requested = settings.providers
    provider = choose_provider(requested) if requested == "auto" else requested
    on_gpu = provider != "cpu"
    cores = available_cores()
    default_workers = max(1, cuda_devices()) if on_gpu else min(cores, MAX_DEFAULT_WORKERS)
    workers = settings.workers or default_workers
    max_batch = settings.max_batch or (64 if on_gpu else 16)
    return Capacity(
        provider=provider,
        workers=workers,
        threads=settings.threads or max(1, cores // workers),
        max_batch=max_batch,
        queue=settings.queue or max_batch,
    )


def set_worker_provider(settings: Settings) -> None:
    """Set the environment variable from which the workers take a provider that computes.

    Raises:
        ProviderError: If a provider was requested by name and does not compute.
    """
    max_batch = derive_capacity(settings).max_batch
    provider = settle_provider(
        settings.bundle, settings.providers, gpu_options(settings), max_batch
    )
    os.environ[f"{PREFIX}PROVIDERS"] = provider
    get_settings.cache_clear()
    get_capacity.cache_clear()


def gpu_options(settings: Settings, device: int = 0) -> GpuOptions:
    """Return how a worker uses its GPU."""
    return GpuOptions(device, settings.gpu_memory, settings.tf32, settings.cuda_graphs)


@cache
def get_capacity() -> Capacity:
    """Return the capacity of this process, derived once."""
    return derive_capacity(get_settings())
