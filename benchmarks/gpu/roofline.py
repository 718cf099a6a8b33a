"""What a device could do at best: the rates it reaches, and what an encoder asks of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MATRIX, COPY = 8192, 2**28
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}


def synchronize(device: str) -> None:
    """Waits for what was launched."""
    if device == "cuda":
        torch.cuda.synchronize()


def allow_tf32(allowed: bool) -> None:
    """Whether PyTorch computes float32 products in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def rates(device: str, quick: bool) -> dict[str, float]:
    """Floating-point operations per second by precision, and `bytes` per second of a copy."""
    side, count = (256, 2**20) if quick else (MATRIX, COPY)
    found = {}
    for precision, dtype in TYPES.items():
        allow_tf32(precision == "tf32")
        one = torch.randn(side, side, device=device, dtype=dtype)
        other = torch.randn(side, side, device=device, dtype=dtype)
        found[precision] = 2 * side**3 / _best(lambda a=one, b=other: a @ b, device)  # type: ignore[misc]
    allow_tf32(False)
    source = torch.zeros(count, device=device)
    target = torch.empty_like(source)
    found["bytes"] = 2 * source.nbytes / _best(lambda: target.copy_(source), device)
    return found


def work(module: nn.Module, inputs: Mapping[str, Tensor], width: int) -> dict[str, int]:
    """What one batch asks for: floating-point operations, and bytes of memory traffic at least.

    The weights, the inputs and the result of each convolution, product and normalisation pass
    through memory once, and each result once more as the next one's input.

    Args:
        module: an encoder in float32.
        inputs: of the batch.
        width: bytes of a number.
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
    given = sum(value.nbytes for value in inputs.values())
    return {"flops": counter.get_total_flops(), "bytes": moved + weights + given}


def least_seconds(asked: Mapping[str, int], reached: Mapping[str, float], precision: str) -> float:
    """The time that a device of these rates needs at least."""
    return max(asked["flops"] / reached[precision], asked["bytes"] / reached["bytes"])


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
