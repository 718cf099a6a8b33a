"""Estimate the shortest time of a batch from the rates of a device and the work of an encoder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

TYPES = {"fp32": torch.float32, "fp16": torch.float16}


def synchronize(device: str) -> None:
    """Wait until the device has finished all launched work."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(run: Callable[[], Any], device: str, seconds: float) -> float:
    """Return the median time of a function that is called for about `seconds`, at least thrice."""
    for _ in range(3):
        run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rates(device: str, seconds: float) -> dict[str, float]:
    """Measure what the device reaches.

    Returns:
        Operations per second of products by precision, and bytes per second: `memory` of the
        device (read and written), `pinned` and `pageable` of copies from the host.
    """
    side, count = (8192, 2**28) if device == "cuda" else (128, 2**16)
    reached = {}
    for precision, dtype in TYPES.items():
        matrix = torch.randn(side, side, device=device).to(dtype)
        once = median_seconds(lambda m=matrix: m @ m, device, seconds)  # type: ignore[misc]
        reached[precision] = 2 * side**3 / once
    source, target = (torch.zeros(count, device=device) for _ in range(2))
    reached["memory"] = (
        2 * source.nbytes / median_seconds(lambda: target.copy_(source), device, seconds)
    )
    host = torch.zeros(count // 8)
    part = target[: len(host)]
    reached["pageable"] = host.nbytes / median_seconds(lambda: part.copy_(host), device, seconds)
    pinned = host.pin_memory() if device == "cuda" else host
    reached["pinned"] = host.nbytes / median_seconds(lambda: part.copy_(pinned), device, seconds)
    return reached


def work(module: nn.Module, inputs: Mapping[str, Tensor], rows: int) -> dict[str, int]:
    """Count the operations of a batch in fp16, and lower bounds of its memory traffic and copies.

    The weights, the inputs and the output of each convolution, product and normalisation pass
    through memory once. Each output passes once more, as the input of the next layer.

    Args:
        module: An encoder in float32 on the CPU.
        inputs: Inputs of one sample, of which the batch has `rows`.
        rows: Samples of the batch.

    Returns:
        `flops`, `bytes` through the memory of the device, and `copied` bytes from the host.
    """
    moved = 0

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal moved
        moved += 2 * 2 * output.numel() if isinstance(output, Tensor) else 0

    layers = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.LayerNorm, nn.Embedding)
    handles = [
        part.register_forward_hook(count) for part in module.modules() if isinstance(part, layers)
    ]
    # The counter knows products, and not each fused attention of a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs.values())
    for handle in handles:
        handle.remove()
    weights = 2 * sum(value.numel() for value in module.parameters())
    copied = rows * sum(value.nbytes for value in inputs.values())
    flops = rows * counter.get_total_flops()
    return {"flops": flops, "bytes": weights + rows * moved + copied, "copied": copied}


def least_ms(cost: Mapping[str, int], reached: Mapping[str, float]) -> dict[str, float]:
    """Return the shortest time of this work by each limit; the roofline is the largest of them."""
    return {
        "compute": 1000 * cost["flops"] / reached["fp16"],
        "memory": 1000 * cost["bytes"] / reached["memory"],
        "pcie": 1000 * cost["copied"] / reached["pinned"],
    }
