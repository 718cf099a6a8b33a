"""Buffers in device memory, and graphs that read and write these buffers.

Everything also runs with the device "cpu", so the tests need no GPU.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from dimml.errors import ProviderError
from dimml.machine import CUDA_DRIVER
from dimml.runtime.session import Graph

MAX_CACHED_SHAPES = 16
"""Input shapes of an encoder whose buffers are kept."""

_ASYNCHRONOUS = ("disable_synchronize_execution_providers", "1")
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: usable in every context of the process


class Device:
    """The device of graphs and buffers: "cuda" with the number of the GPU, or "cpu"."""

    def __init__(self, kind: str, number: int = 0, cuda_graphs: bool = False) -> None:
        self.kind, self.number = kind, number if kind == "cuda" else 0
        self.cuda_graphs = cuda_graphs
        self._driver = _Driver(number) if kind == "cuda" else None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an uninitialised onnxruntime value on the device."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype, self.kind, self.number
        )

    def host_zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return zeros on the host, page-locked for a GPU so that copies run at full speed."""
        return self._driver.zeros(shape, dtype) if self._driver else np.zeros(shape, dtype)


class Staging:
    """The features of a batch on the device, float32 [modalities * rows, D].

    Each modality has its own range of rows, so an encoder always writes to the same address.
    """

    def __init__(self, modalities: int, rows: int, feature_dim: int, device: Device) -> None:
        self.rows, self.feature_dim = rows, feature_dim
        shape = (modalities * rows, feature_dim)
        self.value = device.empty(shape, np.float32)
        # Unwritten rows are never used, but zeros are easier to debug than arbitrary values.
        self.value.update_inplace(np.zeros(shape, np.float32))

    def pointer(self, row: int) -> int:
        """Return the address of a row."""
        return int(self.value.data_ptr()) + 4 * self.feature_dim * row


class BoundEncoder:
    """An encoder graph with its own buffers. Threads must not share an encoder.

    Args:
        graph: Graph from the inputs of a kind to `features`.
        device: Device of the graph.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self._session, self._device = graph.session, device
        self._binding = graph.session.io_binding()
        self._buffers: OrderedDict[Any, dict[str, tuple[np.ndarray, Any]]] = OrderedDict()
        self._recorded: dict[Any, Any] = {}
        self._unrecorded = _run_options(-1 if device.cuda_graphs else None)

    def launch(
        self, inputs: Mapping[str, np.ndarray], staging: Staging, start: int, size: int
    ) -> None:
        """Start a run without waiting for its end.

        Args:
            inputs: Input arrays, [n, ...] each.
            staging: Destination of the features.
            start: First row of the destination.
            size: Rows of the buffers, at least n. Rows after n and their features are undefined.
        """
        shapes = {name: (size, *array.shape[1:]) for name, array in inputs.items()}
        key = tuple(shapes.items())
        for name, (host, value) in self._buffers_of(key, shapes, inputs).items():
            array = inputs[name]
            host[: len(array)] = array
            value.update_inplace(host)
            self._binding.bind_ortvalue_input(name, value)
        device, address = self._device, staging.pointer(start)
        shape = (size, staging.feature_dim)
        self._binding.bind_output(
            "features", device.kind, device.number, np.float32, shape, address
        )
        # A CUDA graph can be replayed only with the addresses that it was recorded with.
        options = self._recorded.get((key, address), self._unrecorded)
        self._session.run_with_iobinding(self._binding, options)

    def warm_up(
        self, inputs: Mapping[str, np.ndarray], staging: Staging, start: int, size: int
    ) -> None:
        """Run inputs of one shape, and record their kernels if CUDA graphs are on."""
        if self._device.cuda_graphs:
            key = tuple((name, (size, *array.shape[1:])) for name, array in inputs.items())
            recording = (key, staging.pointer(start))
            self._recorded.setdefault(recording, _run_options(1 + len(self._recorded)))
        for _ in range(3):  # The runs allocate memory, record the graph and replay the graph.
            self.launch(inputs, staging, start, size)
            self.wait()

    def wait(self) -> None:
        """Wait for the end of the last run."""
        self._binding.synchronize_outputs()

    def _buffers_of(
        self, key: Any, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, Any]]:
        """Return for each input an array on the host and a value on the device."""
        buffers = self._buffers.get(key)
        if buffers is None:
            buffers = self._buffers[key] = {
                name: (
                    self._device.host_zeros(shape, inputs[name].dtype),
                    self._device.empty(shape, inputs[name].dtype.type),
                )
                for name, shape in shapes.items()
            }
            # A recorded CUDA graph always reads the buffers that it was recorded with.
            recorded = {key for key, _ in self._recorded}
            evictable = [cached for cached in self._buffers if cached not in recorded]
            for oldest in evictable[:-MAX_CACHED_SHAPES]:
                self.wait()
                del self._buffers[oldest]
        self._buffers.move_to_end(key)
        return buffers


class BoundClassifier:
    """A classifier graph that reads features from the staging array of the encoders.

    Args:
        graph: Graph from `with_feature_gather`.
    """

    def __init__(self, graph: Graph) -> None:
        self._session, self._outputs = graph.session, list(graph.outputs)
        self._binding = graph.session.io_binding()

    def run(self, staging: Staging, index: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
        """Run the graph and return its outputs on the host.

        Args:
            staging: Features of the encoders.
            index: int64 [N, modalities]. Row of each feature, any valid row for absent modalities.
            present: bool [N, modalities].
        """
        self._binding.bind_ortvalue_input("staging", staging.value)
        self._binding.bind_cpu_input("index", index)
        self._binding.bind_cpu_input("present", np.ascontiguousarray(present))
        for name in self._outputs:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        outputs: list[np.ndarray] = self._binding.copy_outputs_to_cpu()
        return outputs


def with_feature_gather(model: onnx.ModelProto) -> bytes:
    """Replace the input `features` of a classifier by a `Gather` of rows `index` from `staging`.

    Args:
        model: Model with the inputs `features` [N, M, D] and `present` [N, M]. It is modified.

    Returns:
        The serialised model.
    """
    graph = model.graph
    [features] = [node for node in graph.input if node.name == "features"]
    batch, modalities, dimension = features.type.tensor_type.shape.dim
    graph.input.remove(features)
    staging_shape: list[Any] = ["rows", dimension.dim_value]
    index_shape: list[Any] = [batch.dim_param or batch.dim_value, modalities.dim_value]
    graph.input.append(helper.make_tensor_value_info("staging", TensorProto.FLOAT, staging_shape))
    graph.input.append(helper.make_tensor_value_info("index", TensorProto.INT64, index_shape))
    graph.node.insert(0, helper.make_node("Gather", ["staging", "index"], ["features"], axis=0))
    serialised: bytes = model.SerializeToString()
    return serialised


def _run_options(graph_id: int | None) -> Any:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(*_ASYNCHRONOUS)
    if graph_id is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


class _Driver:
    """Page-locked memory of the CUDA driver, which a GPU reads without the processor."""

    def __init__(self, number: int) -> None:
        self._cuda, self._context = ctypes.CDLL(CUDA_DRIVER), ctypes.c_void_p()
        device = ctypes.c_int()
        # onnxruntime uses the primary context too.
        self._check("cuDeviceGet", ctypes.byref(device), number)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Return an array that frees its memory when it is deleted.

        Raises:
            ProviderError: If the driver cannot allocate the memory.
        """
        size, address = max(1, math.prod(shape)) * dtype.itemsize, ctypes.c_void_p()
        # The current context is specific to the thread.
        self._check("cuCtxSetCurrent", self._context)
        self._check("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE)
        buffer = (ctypes.c_char * size).from_address(address.value or 0)
        # The array keeps the buffer alive, and the end of the buffer frees the memory.
        weakref.finalize(buffer, self._free, address)
        array: np.ndarray = np.ndarray(shape, dtype, buffer=memoryview(buffer))
        array[...] = 0
        return array

    def _free(self, address: ctypes.c_void_p) -> None:
        self._cuda.cuCtxSetCurrent(self._context)
        self._cuda.cuMemFreeHost(address)

    def _check(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._cuda, function)(*arguments):
            raise ProviderError(
                f"the NVIDIA driver cannot allocate page-locked memory ({function} returns "
                f"{status}); lower max_batch, or raise the memory limit of the container"
            )
