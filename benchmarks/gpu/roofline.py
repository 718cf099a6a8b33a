"""Estimate the shortest time of a batch from the rates of a device and the work of an encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MATRIX_SIDE, COPY_NUMBERS = 8192, 2**28
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}
PRECISIONS = tuple(TYPES)


def synchronize(device: str) -> None:
    """Wait until the device has finished all launched work."""
    if device == "cuda":
        torch.cuda.synchronize()


def allow_tf32(allowed: bool) -> None:
    """Set whether PyTorch computes float32 products in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def rates(device: str, quick: bool) -> dict[str, float]:
    """Measure operations per second by precision, and the `bytes` per second of a copy."""
    side, count = (256, 2**20) if quick else (MATRIX_SIDE, COPY_NUMBERS)
    reached = {}
    for precision, dtype in TYPES.items():
        allow_tf32(precision == "tf32")
        one = torch.randn(side, side, device=device, dtype=dtype)
        other = torch.randn(side, side, device=device, dtype=dtype)
        reached[precision] = 2 * side**3 / _best(lambda a=one, b=other: a @ b, device)  # type: ignore[misc]
    allow_tf32(False)
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    reached["bytes"] = 2 * source.nbytes / _best(lambda: target.copy_(source), device)
    return reached


def work(module: nn.Module, inputs: Mapping[str, Tensor], width: int) -> dict[str, int]:
    """Count the floating-point operations of one batch, and a lower bound of its memory traffic.

    The weights, the inputs and the output of each convolution, product and normalisation pass
    through memory once. Each output passes once more, as the input of the next layer.

    Args:
        module: An encoder in float32.
        inputs: Inputs of the batch.
        width: Bytes per number.

    Returns:
        `flops` and `bytes`.
    """
    moved = 0
    handles = []

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal moved
        if isinstance(output, Tensor):
            moved += 2 * width * output.numel()

    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.LayerNorm | nn.Embedding):
            handles.append(part.register_forward_hook(count))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(**inputs)
    for handle in handles:
        handle.remove()
    weights = width * sum(value.numel() for value in module.parameters())
    inputs_bytes = sum(value.nbytes for value in inputs.values())
    return {"flops": counter.get_total_flops(), "bytes": moved + weights + inputs_bytes}


def least_seconds(cost: Mapping[str, int], reached: Mapping[str, float], precision: str) -> float:
    """Return the shortest time of this work on a device with these rates (the roofline)."""
    return max(cost["flops"] / reached[precision], cost["bytes"] / reached["bytes"])


def _best(run: Callable[[], Any], device: str, repeats: int = 20) -> float:
    for _ in range(3):
        run()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
