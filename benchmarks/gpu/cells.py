"""The measurements of `python -m benchmarks.gpu`. Each returns figures for the result file."""

from __future__ import annotations

import copy
import io
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnxruntime import OrtValue

from benchmarks.gpu.models import EncoderCase
from benchmarks.gpu.roofline import median_seconds
from dimml.errors import ProviderError
from dimml.machine import available_cores
from dimml.runtime.cuda import GpuEncoder
from dimml.runtime.providers import PROVIDER_NAMES, GpuOptions, Provider
from dimml.runtime.session import Graph, execution_providers

EAGER, COMPILED = "PyTorch eager", "torch.compile"
ORT, NHWC, GRAPHS = "onnxruntime", "onnxruntime, NHWC", "onnxruntime, graphs"
RUNTIMES = (EAGER, COMPILED, ORT, NHWC, GRAPHS)
TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2}
"""Largest accepted difference from fp32 on the CPU, relative to the largest feature."""


def correctness(case: EncoderCase, folder: Path, device: Provider, precision: str) -> Any:
    """Compare the encoders of a service with the CPU: plain, recorded, and from other threads.

    Returns:
        The largest difference, relative to the largest feature, of each way to compute.
    """
    batch = case.batch(3)
    # What an encoder needs of a modality kind, for inputs that are arrays of one shape.
    kind: Any = SimpleNamespace(
        collate=lambda items: {n: np.stack([item[n] for item in items]) for n in case.shapes},
        pad=lambda inputs: inputs,
        warm_inputs=lambda rows: [case.batch(rows)],
    )
    items = [{name: array[row] for name, array in batch.items()} for row in range(3)]
    [expected] = Graph(case.export(folder, "fp32"), "cpu", available_cores()).run(batch)
    path = case.export(folder, precision)
    differences = {}
    for name, gpu in (("plain", GpuOptions()), ("graphs", GpuOptions(cuda_graphs=True))):
        encoder = GpuEncoder(Graph(path, device, gpu=gpu), kind, gpu)
        encoder.warm_up(3)
        with ThreadPoolExecutor(4) as callers:
            others = list(callers.map(lambda _, e=encoder: e.submit(items).result(), range(8)))  # type: ignore[misc]
        scale = float(np.abs(expected).max())
        for way, features in (
            (name, [encoder.submit(items).result()]),
            (f"{name}, threads", others),
        ):
            differences[way] = max(float(np.abs(f - expected).max()) for f in features) / scale
    return {"differences": differences, "tolerance": TOLERANCES[precision]}


def torch_ms(
    case: EncoderCase, rows: int, device: Provider, seconds: float, compiled: bool = False
) -> dict[str, float]:
    """Time PyTorch in float16 (float32 on a CPU), with channels last for images."""
    host = [torch.from_numpy(array) for array in case.batch(rows).values()]
    layout = torch.channels_last if host[0].ndim == 4 else torch.preserve_format
    module = copy.deepcopy(case.module).to(device, memory_format=layout)
    if device == "cuda":
        module.model.half()
    run: Any = module
    if compiled:
        # After 8 compilations of one `forward`, `torch.compile` would silently run eager.
        torch._dynamo.reset()
        options: Any = {"mode": "reduce-overhead"} if device == "cuda" else {"backend": "eager"}
        run = torch.compile(module, dynamic=False, **options)

    def copied() -> list[torch.Tensor]:
        return [value.to(device, memory_format=layout) for value in host]

    resident = copied()
    with torch.inference_mode():
        return {
            "device": 1000 * median_seconds(lambda: run(*resident), device, seconds),
            "copies": 1000 * median_seconds(lambda: run(*copied()).cpu(), device, seconds),
        }


def onnxruntime_ms(
    case: EncoderCase, folder: Path, rows: int, device: Provider, seconds: float, name: str
) -> dict[str, float]:
    """Time onnxruntime in float16."""
    graphs = name == GRAPHS
    providers: Any = execution_providers(device, GpuOptions(cuda_graphs=graphs))
    if name == NHWC and device == "cuda":
        providers[0][1]["prefer_nhwc"] = "1"
    session = onnxruntime.InferenceSession(str(case.export(folder, "fp16")), providers=providers)
    if PROVIDER_NAMES[session.get_providers()[0]] != device:
        raise ProviderError(f"onnxruntime fell back to {session.get_providers()[0]}")
    inputs, options = case.batch(rows), onnxruntime.RunOptions()
    if graphs:
        options.add_run_config_entry("gpu_graph_id", "1")
    binding = session.io_binding()
    values = {n: OrtValue.ortvalue_from_numpy(array, device) for n, array in inputs.items()}
    for input_name, value in values.items():
        binding.bind_ortvalue_input(input_name, value)
    shape = (rows, int(session.get_outputs()[0].shape[-1]))
    features = OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device)
    binding.bind_ortvalue_output("features", features)

    def resident() -> None:
        session.run_with_iobinding(binding, options)

    def recorded_from_host() -> Any:
        for input_name, value in values.items():
            value.update_inplace(inputs[input_name])
        resident()
        return features.numpy()

    from_host = recorded_from_host if graphs else lambda: session.run(None, inputs)
    # Both return when the device has finished.
    return {
        "device": 1000 * median_seconds(resident, "cpu", seconds),
        "copies": 1000 * median_seconds(from_host, "cpu", seconds),
    }


def decoding(threads: int, seconds: float) -> dict[str, float]:
    """Measure the pictures of 640 x 480 that threads decode and preprocess per second."""
    from dimml.modalities import Image

    kind, photo = Image("photo", {}), _photo()
    with ThreadPoolExecutor(threads) as pool:

        def batch() -> None:
            list(pool.map(lambda _: kind.preprocess(kind.decode(photo)), range(4 * threads)))

        return {"per_second": 4 * threads / median_seconds(batch, "cpu", seconds)}


def bytes_to_answers(
    folder: Path, device: Provider, rows: int, threads: int, seconds: float
) -> Any:
    """Measure a bundle of pictures from the bytes of a batch to its predictions.

    While the GPU computes a batch, threads decode the next one, as in a service.
    """
    from dimml import Predictor

    _write_bundle(folder / "bundle", tiny=device == "cpu")
    predictor = Predictor.load(folder / "bundle", device)
    predictor.warm_up(rows)
    sample = {"image": _photo()}
    batches, graphs = [], []
    with ThreadPoolExecutor(threads) as pool, _gpu_load(device) as loads:

        def prepare() -> list[Any]:
            return [pool.submit(predictor.prepare, sample, "error") for _ in range(rows)]

        following = prepare()
        while len(batches) < 4 or sum(batches) < seconds:
            started = time.perf_counter()
            ready = [future.result() for future in following]
            following = prepare()
            decoded = time.perf_counter()
            predictor.predict_prepared(ready)
            graphs.append(time.perf_counter() - decoded)
            batches.append(time.perf_counter() - started)
    # Nothing else ran while the first batch was decoded.
    batch = statistics.median(batches[1:])
    return {
        "per_second": rows / batch,
        "share_of_graphs": statistics.median(graphs[1:]) / batch,
        "gpu_busy": statistics.mean(loads) / 100 if loads else None,
        "threads": threads,
    }


def _write_bundle(path: Path, tiny: bool) -> None:
    """Write a bundle of pictures with an untrained ResNet-18 on 224 pixels, or a small one."""
    from dimml.modality_specs import ModalitySpec, build_kind
    from dimml.nn.encoders import build_encoder
    from dimml.nn.model import MultimodalModel
    from export.onnx import write_bundle

    side, preset = (32, "small") if tiny else (224, "resnet18")
    spec = ModalitySpec(
        kind="image",
        graph="image.onnx",
        inputs=("pixels",),
        preprocessing={"size": [side, side]},
        encoder=preset,
    )
    kind = build_kind("image", spec, {}, None)
    model = MultimodalModel(["image"], [build_encoder(kind, 256, preset=preset)], 256, 10)
    described: Any = {"name": "gpu", "created": "2026-01-01T00:00:00Z", "provenance": {}}
    labels = tuple(f"class {n}" for n in range(10))
    kinds, specs = {"image": kind}, {"image": spec}
    write_bundle(path, model.eval(), kinds, specs, {"image": {}}, labels=labels, **described)


def _photo() -> bytes:
    import PIL.Image

    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((640, 480)).save(file, "JPEG")
    return file.getvalue()


@contextmanager
def _gpu_load(device: str) -> Iterator[list[float]]:
    """Yield a list that holds, after the block, the percentages of time with a running kernel."""
    loads: list[float] = []
    if device != "cuda":
        yield loads
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    watch = subprocess.Popen([*query, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    try:
        yield loads
    finally:
        watch.terminate()
        output, _ = watch.communicate()
        loads += [float(line) for line in output.split() if line.replace(".", "").isdigit()]
