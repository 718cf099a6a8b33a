"""Arrays in the memory of a device, and graphs that read and write them there.

With the device "cpu" all of it runs without a GPU, which is how it is tested.
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
"""Shapes of an encoder's input whose buffers are kept."""

_ASYNCHRONOUS = ("disable_synchronize_execution_providers", "1")
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE: for every context of the process


class Device:
    """Where graphs run: "cuda" with the number of the GPU, or "cpu"."""

    def __init__(self, kind: str, number: int = 0, cuda_graphs: bool = False) -> None:
        self.kind, self.number = kind, number if kind == "cuda" else 0
        self.cuda_graphs = cuda_graphs
        self._driver = _Driver(number) if kind == "cuda" else None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An onnxruntime value that is not filled."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, dtype, self.kind, self.number
        )

    def host_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array on the host that copies to the device at full speed: zeros."""
        return self._driver.zeros(shape, dtype) if self._driver else np.zeros(shape, dtype)


class Staging:
    """Features of a batch on the device, float32 [modalities * rows, D].

    Each modality has its rows, so that an encoder finds the same place each time.
    """

    def __init__(self, modalities: int, rows: int, feature_dim: int, device: Device) -> None:
        self.rows, self.feature_dim = rows, feature_dim
        shape = (modalities * rows, feature_dim)
        self.value = device.empty(shape, np.float32)
        # Rows that no encoder writes are never read as features; zeros are kinder to a debugger.
        self.value.update_inplace(np.zeros(shape, np.float32))

    def pointer(self, row: int) -> int:
        """The address of a row."""
        return int(self.value.data_ptr()) + 4 * self.feature_dim * row


class BoundEncoder:
    """An encoder graph with buffers of its own: not to be shared between threads.

    Args:
        graph: from the inputs of a kind to `features`.
        device: where its session runs.
    """

    def __init__(self, graph: Graph, device: Device) -> None:
        self._session, self._device = graph.session, device
        self._binding = graph.session.io_binding()
        self._buffers: OrderedDict[Any, dict[str, tuple[np.ndarray, Any]]] = OrderedDict()
        self._recorded: dict[Any, Any] = {}
        self._plain = _run_options(-1 if device.cuda_graphs else None)

    def launch(
        self, inputs: Mapping[str, np.ndarray], staging: Staging, start: int, size: int
    ) -> None:
        """Starts a run and does not wait for it.

        Args:
            inputs: [n, ...] each.
            staging: where the features go.
            start: from which row on.
            size: rows of the buffers, n or more; what is in those beyond n means nothing, and so
                do their features.
        """
        shapes = {name: (size, *array.shape[1:]) for name, array in inputs.items()}
        key = tuple(shapes.items())
        for name, (host, value) in self._buffers_of(key, shapes, inputs).items():
            array = inputs[name]
            host[: len(array)] = array
            value.update_inplace(host)
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_output(
            "features",
            self._device.kind,
            self._device.number,
            np.float32,
            (size, staging.feature_dim),
            staging.pointer(start),
        )
        options = self._recorded.get((key, staging.pointer(start)), self._plain)
        self._session.run_with_iobinding(self._binding, options)

    def warm_up(
        self, inputs: Mapping[str, np.ndarray], staging: Staging, start: int, size: int
    ) -> None:
        """Runs inputs of a shape, and records their kernels where CUDA graphs are on."""
        if self._device.cuda_graphs:
            key = tuple((name, (size, *array.shape[1:])) for name, array in inputs.items())
            place = (key, staging.pointer(start))
            self._recorded.setdefault(place, _run_options(1 + len(self._recorded)))
        for _ in range(3):  # to allocate, to record, to replay
            self.launch(inputs, staging, start, size)
            self.wait()

    def wait(self) -> None:
        """Returns once what was launched is done."""
        self._binding.synchronize_outputs()

    def _buffers_of(
        self, key: Any, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[np.ndarray, Any]]:
        """By input: an array on the host, and its copy on the device."""
        found = self._buffers.get(key)
        if found is None:
            found = self._buffers[key] = {
                name: (
                    self._device.host_array(shape, inputs[name].dtype),
                    self._device.empty(shape, inputs[name].dtype.type),
                )
                for name, shape in shapes.items()
            }
            recorded = {key for key, _ in self._recorded}
            # A recorded graph reads its own buffers for ever.
            spare = [kept for kept in self._buffers if kept not in recorded]
            for oldest in spare[:-MAX_CACHED_SHAPES]:
                self.wait()
                del self._buffers[oldest]
        self._buffers.move_to_end(key)
        return found


class BoundClassifier:
    """A classifier graph that takes features from where encoders left them.

    Args:
        graph: made of `with_feature_gather`.
    """

    def __init__(self, graph: Graph) -> None:
        self._session, self._outputs = graph.session, list(graph.outputs)
        self._binding = graph.session.io_binding()

    def run(self, staging: Staging, index: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
        """The graph's outputs, on the host.

        Args:
            staging: the features.
            index: int64 [N, modalities], the row of each there; any, where it is absent.
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
    """A classifier graph with `features` gathered from `staging` by `index`, serialised.

    Args:
        model: with the inputs `features` [N, M, D] and `present` [N, M].
    """
    graph = model.graph
    [features] = [node for node in graph.input if node.name == "features"]
    batch, modalities, dimension = features.type.tensor_type.shape.dim
    graph.input.remove(features)
    rows: list[Any] = ["rows", dimension.dim_value]
    places: list[Any] = [batch.dim_param or batch.dim_value, modalities.dim_value]
    graph.input.append(helper.make_tensor_value_info("staging", TensorProto.FLOAT, rows))
    graph.input.append(helper.make_tensor_value_info("index", TensorProto.INT64, places))
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
    """The CUDA driver's page-locked memory, from which a GPU reads by itself."""

    def __init__(self, number: int) -> None:
        self._cuda, self._context = ctypes.CDLL(CUDA_DRIVER), ctypes.c_void_p()
        device = ctypes.c_int()
        # The context that onnxruntime works in too.
        self._check("cuDeviceGet", ctypes.byref(device), number)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array that gives its memory back when it goes.

        Raises:
            ProviderError: the driver gives none.
        """
        size, address = max(1, math.prod(shape)) * dtype.itemsize, ctypes.c_void_p()
        # Each thread has a current context of its own.
        self._check("cuCtxSetCurrent", self._context)
        self._check("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE)
        buffer = (ctypes.c_char * size).from_address(address.value or 0)
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
                f"no page-locked memory from the NVIDIA driver ({function} answers {status}); "
                "lower max_batch, or raise the memory of the container"
            )
