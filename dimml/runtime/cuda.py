"""Encoders on a GPU: one thread each, few input shapes, and CUDA graphs.

The same code runs graphs on the CPU, which the tests use.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnxruntime import OrtValue

from dimml.runtime.providers import GpuOptions
from dimml.runtime.session import Graph

if TYPE_CHECKING:
    from dimml.modalities import Arrays, Kind


@dataclass(frozen=True, slots=True)
class CudaGraph:
    """A CUDA graph and its buffers: it always reads and writes the memory it was recorded with.

    Attributes:
        inputs: Graph input name to the value on the device.
        features: Output on the device, float32 [N, D].
        binding: Binding of the session to these values.
        options: Options of a run, with the number of the CUDA graph.
    """

    inputs: dict[str, OrtValue]
    features: OrtValue
    binding: Any
    options: Any


class GpuEncoder:
    """Runs an encoder in a thread of its own.

    The copies of one encoder then overlap the kernels of another. And a CUDA graph can be replayed
    only in the thread that recorded it. Kernels are chosen and CUDA graphs are recorded for each
    input shape, so batches are padded to few shapes.

    Args:
        graph: Graph from the inputs of the kind to `features`.
        kind: Kind of the modality.
        gpu: Options of the GPU.
    """

    def __init__(self, graph: Graph, kind: Kind, gpu: GpuOptions) -> None:
        self._graph, self._kind, self._gpu = graph, kind, gpu
        self._cuda_graphs: dict[object, CudaGraph] = {}
        # With -1, a run neither records nor replays a CUDA graph.
        self._unrecorded = _run_options(-1) if gpu.cuda_graphs else None
        self._thread = ThreadPoolExecutor(1, "encoder")

    def submit(self, items: Sequence[Arrays]) -> Future[np.ndarray]:
        """Start a run on samples of one bucket and return the future of their features [N, D]."""
        return self._thread.submit(self._encode, items)

    def warm_up(self, batch_size: int) -> None:
        """Run each input shape of a batch size, and record it if CUDA graphs are on."""
        shapes = self._kind.warm_inputs(_padded_rows(batch_size))
        # The longest shape is first and the shortest second, because TensorRT builds a new engine
        # for a shape outside the range of the shapes before.
        for inputs in [*shapes[-1:], *shapes[:-1]]:
            for _ in range(3):  # The runs allocate memory, record the graph and replay the graph.
                self._thread.submit(self._run, inputs, self._gpu.cuda_graphs).result()

    def _encode(self, items: Sequence[Arrays]) -> np.ndarray:
        padding = [items[-1]] * (_padded_rows(len(items)) - len(items))
        return self._run(self._kind.pad(self._kind.collate([*items, *padding])))[: len(items)]

    def _run(self, inputs: Arrays, record: bool = False) -> np.ndarray:
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        if record and shapes not in self._cuda_graphs:
            self._cuda_graphs[shapes] = self._bind(inputs, 1 + len(self._cuda_graphs))
        recorded = self._cuda_graphs.get(shapes)
        if recorded is None:
            return self._graph.run(inputs, self._unrecorded)[0]
        for name, value in recorded.inputs.items():
            value.update_inplace(inputs[name])
        # The copies above and the session both wait for the device before they return.
        self._graph.session.run_with_iobinding(recorded.binding, recorded.options)
        # On the CPU, `numpy` returns the buffer itself.
        return np.array(recorded.features.numpy())

    def _bind(self, inputs: Arrays, graph_id: int) -> CudaGraph:
        device, number = (
            ("cuda", self._gpu.device) if self._graph.provider == "cuda" else ("cpu", 0)
        )
        rows = len(next(iter(inputs.values())))
        shape = (rows, int(self._graph.outputs["features"][-1]))
        features = OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, number)
        binding = self._graph.session.io_binding()
        binding.bind_ortvalue_output("features", features)
        values = {}
        for name, array in inputs.items():
            values[name] = OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype.type, device, number
            )
            binding.bind_ortvalue_input(name, values[name])
        return CudaGraph(values, features, binding, _run_options(graph_id))


def _padded_rows(rows: int) -> int:
    """Return the next power of two."""
    return 1 << (rows - 1).bit_length()


def _run_options(graph_id: int) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
