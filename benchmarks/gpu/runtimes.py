"""Functions that compute the features of one batch, for each runtime that is compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.models import EncoderCase, HalfEncoder
from benchmarks.gpu.roofline import synchronize
from dimml.nn.masks import blank_absent
from dimml.runtime.cuda import BoundEncoder, Device, Staging
from dimml.runtime.providers import GpuOptions, Provider
from dimml.runtime.session import Graph

EAGER, COMPILED = "PyTorch eager", "torch.compile"
PLAIN, BOUND, GRAPHS = "dimml, plain", "dimml, I/O binding", "dimml, CUDA graphs"
RUNTIMES = (EAGER, COMPILED, PLAIN, BOUND, GRAPHS)

Run = Callable[[], Any]
"""Computes one batch and returns when the device has finished."""


def encoder_runs(
    case: EncoderCase, folder: Path, device: Provider, precision: str, size: int
) -> dict[str, Callable[[], Run]]:
    """Return, by runtime, a function that prepares the computation of a batch's features."""
    inputs = case.batch(size)
    graph_precision = "fp16" if precision == "fp16" else "fp32"

    def build_module() -> nn.Module:
        # A copy, because `half` and `to` change a module in place.
        encoder = copy.deepcopy(case.module)
        return (HalfEncoder(encoder) if precision == "fp16" else encoder).to(device).eval()

    def graph(cuda_graphs: bool = False) -> Graph:
        gpu = GpuOptions(tf32=precision == "tf32", cuda_graphs=cuda_graphs)
        return Graph(case.export(folder, graph_precision), device, gpu=gpu)

    def plain() -> Run:
        session = graph()
        return lambda: session.run(inputs)

    runs: dict[str, Callable[[], Run]] = {
        EAGER: lambda: _torch_run(build_module(), inputs, device),
        COMPILED: lambda: _torch_run(compiled(build_module()), inputs, device),
        PLAIN: plain,
        BOUND: lambda: _bound_run(graph(), inputs, device),
    }
    if device == "cuda":
        runs[GRAPHS] = lambda: _bound_run(graph(True), inputs, device, cuda_graphs=True)
    return runs


def compiled(module: nn.Module) -> nn.Module:
    """Compile a module for fixed shapes."""
    result: nn.Module = torch.compile(module, mode="reduce-overhead", dynamic=False)
    return result


def _torch_run(module: nn.Module, inputs: Mapping[str, np.ndarray], device: str) -> Run:
    host = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in inputs.items()}
    if device == "cuda":
        host = {name: value.pin_memory() for name, value in host.items()}

    @torch.inference_mode()
    def run() -> Tensor:
        copied = {name: value.to(device, non_blocking=True) for name, value in host.items()}
        features: Tensor = module(**copied)
        synchronize(device)
        return features

    return run


def _bound_run(
    graph: Graph, inputs: Mapping[str, np.ndarray], device: str, cuda_graphs: bool = False
) -> Run:
    """Return a function that computes features on the device, as the service does."""
    memory = Device(device, 0, cuda_graphs)
    encoder = BoundEncoder(graph, memory)
    size = len(next(iter(inputs.values())))
    staging = Staging(1, size, int(graph.outputs["features"][-1]), memory)
    encoder.warm_up(inputs, staging, 0, size)

    def run() -> None:
        encoder.launch(inputs, staging, 0, size)
        encoder.wait()

    return run


def model_run(
    model: Any,
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    device: str,
    prepare: Callable[[nn.Module], nn.Module],
) -> Run:
    """Return a function that runs encoders and classifier in PyTorch, with outputs on the host."""
    model = copy.deepcopy(model).to(device)
    encoders = [
        _torch_run(prepare(module), arrays, device)
        for module, arrays in zip(model.encoders, inputs.values(), strict=True)
    ]
    size = len(next(iter(next(iter(inputs.values())).values())))
    present = torch.ones(size, len(encoders), dtype=torch.bool, device=device)

    @torch.inference_mode()
    def run() -> list[Tensor]:
        # Cloned, because a compiled module reuses the memory of its output.
        features = torch.stack([encoder().clone() for encoder in encoders], dim=1)
        return [value.cpu() for value in model.fusion(blank_absent(features, present), present)]

    run()
    return run
