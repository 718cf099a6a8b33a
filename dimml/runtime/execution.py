"""Execution of a bundle's graphs, from input arrays to classifier outputs, on the host or a GPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx

from dimml.bundle import Bundle
from dimml.errors import BundleError
from dimml.modalities import Arrays, Kind
from dimml.runtime.cuda import BoundClassifier, BoundEncoder, Device, Staging, with_feature_gather
from dimml.runtime.providers import GpuOptions, Provider
from dimml.runtime.session import Graph

MIN_STAGING_ROWS = 256
"""Rows per modality of a new staging array, enough that it rarely has to grow."""


class EncoderCall(NamedTuple):
    """The samples of one call of an encoder.

    Attributes:
        slot: Slot of the modality.
        rows: Indices of the samples in the batch.
        inputs: Inputs of the encoder. Their first axis is as long as `rows`.
    """

    slot: int
    rows: Sequence[int]
    inputs: Arrays


class HostPath:
    """Runs the graphs with input and output arrays in host memory. Threads may share a path.

    Args:
        encoders: One encoder per modality, in slot order.
        classifier: Classifier of the bundle.
        feature_dim: D.
    """

    def __init__(self, encoders: Sequence[Graph], classifier: Graph, feature_dim: int) -> None:
        self._encoders, self._classifier = encoders, classifier
        self._feature_dim = feature_dim

    def encode(self, calls: Sequence[EncoderCall], present: np.ndarray) -> np.ndarray:
        """Return the features of a batch in the form that `classify` takes.

        Args:
            calls: Every present modality of every sample, once.
            present: bool [N, modalities].
        """
        features = np.zeros((*present.shape, self._feature_dim), np.float32)
        for slot, rows, inputs in calls:
            [features[rows, slot]] = self._encoders[slot].run(inputs)
        return features

    def read(self, encoded: np.ndarray) -> np.ndarray:
        """Return the features of `encode`, float32 [N, modalities, D]. Call before `classify`.

        Those of absent modalities are undefined.
        """
        return encoded

    def classify(self, features: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of the classifier graph. Call once per result of `encode`."""
        return self._classifier.run({"features": features, "present": present})

    def warm_up(self, batch_size: int) -> None:
        """Prepare for batches of this size, in every input shape that a modality uses."""


class DevicePath:
    """Runs the encoders concurrently and keeps their features in device memory.

    The inputs of each encoder are copied to the device once, from page-locked memory. Each encoder
    starts in the stream of its session without waiting for the others. All encoders write into one
    staging array, and a `Gather` in front of the classifier reads the features of each sample from
    there. Threads may share a path.

    Args:
        encoders: One encoder per modality, in slot order.
        classifier: Classifier from `dimml.runtime.cuda.with_feature_gather`.
        kinds: One kind per modality, in slot order.
        feature_dim: D.
        device: Device of the graphs.
    """

    def __init__(
        self,
        encoders: Sequence[Graph],
        classifier: Graph,
        kinds: Sequence[Kind],
        feature_dim: int,
        device: Device,
    ) -> None:
        self._encoders = [BoundEncoder(graph, device) for graph in encoders]
        self._classifier = BoundClassifier(classifier)
        self._kinds = kinds
        self._feature_dim = feature_dim
        self._device = device
        self._lock = threading.Lock()
        self._free: list[Staging] = []

    def encode(
        self, calls: Sequence[EncoderCall], present: np.ndarray
    ) -> tuple[Staging, np.ndarray]:
        index = np.zeros(present.shape, np.int64)
        padded = [(slot, rows, *self._padded(slot, inputs)) for slot, rows, inputs in calls]
        sizes = [0] * len(self._encoders)
        for slot, _, _, size in padded:
            sizes[slot] += size
        with self._lock:
            staging = self._take_staging(max(sizes))
            starts = [slot * staging.rows for slot in range(len(sizes))]
            for slot, rows, inputs, size in padded:
                self._encoders[slot].launch(inputs, staging, starts[slot], size)
                index[rows, slot] = np.arange(starts[slot], starts[slot] + len(rows))
                starts[slot] += size
            # Afterwards input buffers may be overwritten, and other streams may read the features.
            for slot, size in enumerate(sizes):
                if size:
                    self._encoders[slot].wait()
        return staging, index

    def read(self, encoded: tuple[Staging, np.ndarray]) -> np.ndarray:
        staging, index = encoded
        with self._lock:
            features: np.ndarray = staging.value.numpy()[index]
        return features

    def classify(
        self, features: tuple[Staging, np.ndarray], present: np.ndarray
    ) -> list[np.ndarray]:
        staging, index = features
        with self._lock:
            outputs = self._classifier.run(staging, index, present)
            self._free.append(staging)
        return outputs

    def warm_up(self, batch_size: int) -> None:
        with self._lock:
            for slot, kind in enumerate(self._kinds):
                for inputs in kind.warm_inputs(batch_size):
                    padded, size = self._padded(slot, inputs)
                    staging = self._take_staging(size)
                    self._encoders[slot].warm_up(padded, staging, slot * staging.rows, size)
                    self._free.append(staging)

    def _padded(self, slot: int, inputs: Arrays) -> tuple[Arrays, int]:
        """Pad the inputs, and return them with the number of rows of their buffers.

        Kernels are chosen and CUDA graphs are recorded once per shape, so shapes should be few.
        """
        inputs = self._kinds[slot].pad(inputs)
        count = len(next(iter(inputs.values())))
        return inputs, 1 << (count - 1).bit_length()  # the next power of two

    def _take_staging(self, rows: int) -> Staging:
        """Return a staging array that is not in use and has this many rows per modality."""
        for position, staging in enumerate(self._free):
            if staging.rows >= rows:
                return self._free.pop(position)
        self._free.clear()
        size = max(MIN_STAGING_ROWS, rows)
        return Staging(len(self._encoders), size, self._feature_dim, self._device)


DataPath: TypeAlias = HostPath | DevicePath


def load_data_path(
    bundle: Bundle, kinds: Mapping[str, Kind], provider: Provider, threads: int, gpu: GpuOptions
) -> DataPath:
    """Load the graphs of a bundle for a provider.

    Raises:
        BundleError: If a graph does not load or does not match the manifest.
        ProviderError: If a session did not get the provider.
    """
    manifest = bundle.manifest
    encoders = {
        name: Graph(bundle.path / spec.graph, provider, threads, gpu)
        for name, spec in manifest.modalities.items()
    }
    file = bundle.path / manifest.classifier
    model = file if provider == "cpu" else with_feature_gather(onnx.load(file))
    # The classifier takes any number of samples, so there is no fixed shape to record.
    classifier = Graph(model, provider, threads, replace(gpu, cuda_graphs=False))
    _check_graphs(bundle, encoders, classifier)
    graphs, dimension = list(encoders.values()), manifest.feature_dim
    if provider == "cpu":
        return HostPath(graphs, classifier, dimension)
    device = Device("cuda", gpu.device, gpu.cuda_graphs)
    return DevicePath(graphs, classifier, list(kinds.values()), dimension, device)


def _check_graphs(bundle: Bundle, encoders: Mapping[str, Graph], classifier: Graph) -> None:
    """Reject a manifest that does not match its graphs. No checksum covers the manifest itself.

    Raises:
        BundleError: If the numbers of features, labels or modalities, or the shapes of preprocessed
            inputs differ.
    """
    manifest = bundle.manifest
    sizes = [
        (classifier, manifest.classifier, "probabilities", len(manifest.labels)),
        (classifier, manifest.classifier, "weights", len(manifest.modalities)),
        (classifier, manifest.classifier, "modality_logits", len(manifest.labels)),
        *(
            (encoders[name], spec.graph, "features", manifest.feature_dim)
            for name, spec in manifest.modalities.items()
        ),
    ]
    for graph, file, output, expected in sizes:
        actual = graph.outputs.get(output, [None])[-1]
        if actual != expected:
            raise BundleError(
                f"{bundle.path}: the manifest was changed: it requires `{output}` of size "
                f"{expected} from {file}, which returns {actual}; export the bundle again"
            )
    for name, kind in bundle.kinds().items():
        example = kind.collate([kind.preprocess(kind.decode(kind.example()))])
        shapes = {key: array.shape for key, array in example.items()}
        if not _shapes_match(shapes, encoders[name].inputs):
            raise BundleError(
                f"{bundle.path}: the manifest was changed: the preprocessing of `{name}` returns "
                f"{shapes}, but its graph takes {encoders[name].inputs}; export the bundle again"
            )


def _shapes_match(
    actual: Mapping[str, Sequence[int]], declared: Mapping[str, Sequence[int | str]]
) -> bool:
    """Return whether arrays fit the inputs of a graph, where a free axis has a name as its size."""
    return list(actual) == list(declared) and all(
        len(shape) == len(declared[name])
        and all(isinstance(n, str) or n == m for m, n in zip(shape, declared[name], strict=True))
        for name, shape in actual.items()
    )
