"""Execution of a bundle's graphs, from input arrays to classifier outputs, on the host or a GPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from typing import NamedTuple

import numpy as np

from dimml.bundle import Bundle
from dimml.errors import BundleError, ProviderError
from dimml.modalities import Arrays, Kind
from dimml.runtime.cuda import GpuEncoder
from dimml.runtime.providers import GpuOptions, Provider
from dimml.runtime.session import Graph


class EncoderCall(NamedTuple):
    """The samples of one call of an encoder.

    Attributes:
        slot: Slot of the modality.
        kind: Kind of the modality.
        rows: Indices of the samples in the batch.
        items: Arrays of these samples, in one bucket of the kind.
    """

    slot: int
    kind: Kind
    rows: Sequence[int]
    items: Sequence[Arrays]


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
        """Return the features of a batch, float32 [N, modalities, D].

        Args:
            calls: Every present modality of every sample, once.
            present: bool [N, modalities].
        """
        features = np.zeros((*present.shape, self._feature_dim), np.float32)
        for slot, kind, rows, items in calls:
            for part in kind.cpu_calls(items):
                inputs = kind.collate([items[position] for position in part])
                [features[[rows[n] for n in part], slot]] = self._encoders[slot].run(inputs)
        return features

    def classify(self, features: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of the classifier graph."""
        return self._classifier.run({"features": features, "present": present})

    def warm_up(self, batch_size: int) -> None:
        """Prepare for batches of this size, in every input shape that a modality uses."""


class GpuPath(HostPath):
    """Runs the encoders side by side on a GPU, and the classifier on the CPU.

    The features of a sample take about 1 KB and the classifier is a few small products, so a GPU
    would save less time than its launches cost. Threads may share a path.

    Args:
        encoders: One encoder per modality, in slot order.
        classifier: Classifier of the bundle, on the CPU.
        feature_dim: D.
    """

    def __init__(self, encoders: Sequence[GpuEncoder], classifier: Graph, feature_dim: int) -> None:
        super().__init__((), classifier, feature_dim)
        self._gpu_encoders = encoders
        # While one thread records a CUDA graph, no other thread may allocate or copy.
        self._lock = threading.Lock()

    def encode(self, calls: Sequence[EncoderCall], present: np.ndarray) -> np.ndarray:
        features = np.zeros((*present.shape, self._feature_dim), np.float32)
        with self._lock:
            runs = [self._gpu_encoders[call.slot].submit(call.items) for call in calls]
            wait(runs)  # for all of them, also if one fails
        for call, run in zip(calls, runs, strict=True):
            features[call.rows, call.slot] = run.result()
        return features

    def warm_up(self, batch_size: int) -> None:
        with self._lock:
            for encoder in self._gpu_encoders:
                encoder.warm_up(batch_size)


def load_data_path(
    bundle: Bundle, kinds: Mapping[str, Kind], provider: Provider, threads: int, gpu: GpuOptions
) -> HostPath:
    """Load the graphs of a bundle for a provider.

    Raises:
        BundleError: If a graph does not load or does not match the manifest.
        ProviderError: If a session did not get the provider, or TensorRT lacks what is requested.
    """
    manifest = bundle.manifest
    if provider == "tensorrt":
        _check_tensorrt(manifest.precision, gpu)
    encoders = {
        name: Graph(bundle.path / spec.graph, provider, threads, gpu)
        for name, spec in manifest.modalities.items()
    }
    classifier = Graph(bundle.path / manifest.classifier, "cpu", threads)
    _check_graphs(bundle, encoders, classifier)
    if provider == "cpu":
        return HostPath(list(encoders.values()), classifier, manifest.feature_dim)
    on_gpu = [GpuEncoder(encoders[name], kind, gpu) for name, kind in kinds.items()]
    return GpuPath(on_gpu, classifier, manifest.feature_dim)


def _check_tensorrt(precision: str, gpu: GpuOptions) -> None:
    """Raise a `ProviderError` for what works with CUDA but not with TensorRT."""
    if gpu.cuda_graphs:
        raise ProviderError(
            "TensorRT was requested with CUDA graphs, which only providers=cuda records; turn "
            "cuda_graphs off, or use providers=cuda"
        )
    if precision == "fp16":
        raise ProviderError(
            "TensorRT was requested for a bundle in fp16, and would also round the layers that "
            "the bundle keeps in float32; export the bundle in fp32, or use providers=cuda"
        )


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
