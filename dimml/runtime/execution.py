"""From the arrays of samples to the answers of the classifier, on the host or on a GPU."""

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
"""Of each modality in a staging array: as a rule the first serves for good."""


class EncoderCall(NamedTuple):
    """Samples that one call of an encoder takes.

    Attributes:
        slot: the modality's place.
        rows: which samples of the batch.
        inputs: the encoder's, their first axis as long as `rows`.
    """

    slot: int
    rows: Sequence[int]
    inputs: Arrays


class HostPath:
    """Arrays in and out of each graph.

    Args:
        encoders: one per modality, in slot order.
        classifier: the bundle's.
        feature_dim: D.
    """

    def __init__(self, encoders: Sequence[Graph], classifier: Graph, feature_dim: int) -> None:
        self._encoders, self._classifier = encoders, classifier
        self._feature_dim = feature_dim

    def encode(self, groups: Sequence[EncoderCall], present: np.ndarray) -> np.ndarray:
        """The features of a batch, as `classify` takes them.

        Args:
            groups: what is present, each sample and modality once.
            present: bool [N, modalities].
        """
        features = np.zeros((*present.shape, self._feature_dim), np.float32)
        for slot, rows, inputs in groups:
            [features[rows, slot]] = self._encoders[slot].run(inputs)
        return features

    def classify(self, features: np.ndarray, present: np.ndarray) -> list[np.ndarray]:
        """What the classifier graph puts out for the features of `encode`, once for each."""
        return self._classifier.run({"features": features, "present": present})

    def warm_up(self, batch_size: int) -> None:
        """Prepares for batches of this size, in every shape that a modality's inputs are given."""


class DevicePath:
    """Features stay in the memory of the device, from encoders that run side by side.

    Each encoder's inputs are copied to the device once, from page-locked memory, and the encoder
    is launched in the stream of its session without waiting for it. All write into one staging
    array; the classifier, behind a `Gather`, takes each sample's features from their place there.

    Args:
        encoders: one per modality, in slot order.
        classifier: as `dimml.runtime.cuda.with_feature_gather` makes it.
        kinds: likewise.
        feature_dim: D.
        device: where the graphs run.
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
        self, groups: Sequence[EncoderCall], present: np.ndarray
    ) -> tuple[Staging, np.ndarray]:
        index = np.zeros(present.shape, np.int64)
        padded = [(slot, rows, *self._padded(slot, inputs)) for slot, rows, inputs in groups]
        sizes = [0] * len(self._encoders)
        for slot, _, _, size in padded:
            sizes[slot] += size
        with self._lock:
            staging = self._staging(max(sizes))
            starts = [slot * staging.rows for slot in range(len(sizes))]
            for slot, rows, inputs, size in padded:
                self._encoders[slot].launch(inputs, staging, starts[slot], size)
                index[rows, slot] = np.arange(starts[slot], starts[slot] + len(rows))
                starts[slot] += size
            # Then the buffers of the inputs may be filled again, and other streams may read.
            for slot, size in enumerate(sizes):
                if size:
                    self._encoders[slot].wait()
        return staging, index

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
                    shaped, size = self._padded(slot, inputs)
                    staging = self._staging(size)
                    start = slot * staging.rows
                    self._encoders[slot].warm_up(shaped, staging, start, size)
                    self._free.append(staging)

    def _padded(self, slot: int, inputs: Arrays) -> tuple[Arrays, int]:
        """Inputs of one of few shapes, and how many rows their buffers get.

        Kernels are chosen, and CUDA graphs recorded, once per shape.
        """
        inputs = self._kinds[slot].pad(inputs)
        count = len(next(iter(inputs.values())))
        return inputs, 1 << (count - 1).bit_length()

    def _staging(self, rows: int) -> Staging:
        """Staging that nobody uses, with room for that many rows of each modality."""
        for place, staging in enumerate(self._free):
            if staging.rows >= rows:
                return self._free.pop(place)
        self._free.clear()
        size = max(MIN_STAGING_ROWS, rows)
        return Staging(len(self._encoders), size, self._feature_dim, self._device)


DataPath: TypeAlias = HostPath | DevicePath


def load_path(
    bundle: Bundle, kinds: Mapping[str, Kind], provider: Provider, threads: int, gpu: GpuOptions
) -> DataPath:
    """The graphs of a bundle, loaded where they are to run.

    Raises:
        BundleError: a graph does not load, or is not the one of the manifest.
        ProviderError: a session did not get the provider.
    """
    manifest = bundle.manifest
    encoders = {
        name: Graph(bundle.path / spec.graph, provider, threads, gpu)
        for name, spec in manifest.modalities.items()
    }
    classifier = bundle.path / manifest.classifier
    if provider == "cpu":
        graph = Graph(classifier, provider, threads)
        check_fits(bundle, encoders, graph)
        return HostPath(list(encoders.values()), graph, manifest.feature_dim)
    # Its shapes are any number of samples, so there is nothing to record.
    plain = replace(gpu, cuda_graphs=False)
    graph = Graph(with_feature_gather(onnx.load(classifier)), provider, threads, plain)
    check_fits(bundle, encoders, graph)
    device = Device("cuda", gpu.device, gpu.cuda_graphs)
    return DevicePath(
        list(encoders.values()), graph, list(kinds.values()), manifest.feature_dim, device
    )


def check_fits(bundle: Bundle, encoders: Mapping[str, Graph], classifier: Graph) -> None:
    """Refuses a manifest that says otherwise than its graphs: no checksum covers it.

    Raises:
        BundleError: sizes of features, labels, modalities or preprocessed inputs differ.
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
    for graph, file, output, size in sizes:
        actual = graph.outputs.get(output, [None])[-1]
        if actual != size:
            raise BundleError(
                f"{bundle.path}: its manifest was changed: it asks {file} for `{output}` of "
                f"size {size}, and the graph gives {actual}; export the bundle again"
            )
    for name, kind in bundle.kinds().items():
        example = kind.collate([kind.preprocess(kind.decode(kind.example()))])
        given = {key: array.shape for key, array in example.items()}
        if not _agree(given, encoders[name].inputs):
            raise BundleError(
                f"{bundle.path}: its manifest was changed: the preprocessing of `{name}` gives "
                f"{given}, and its graph takes {encoders[name].inputs}; export the bundle again"
            )


def _agree(given: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int | str]]) -> bool:
    return list(given) == list(wanted) and all(
        len(shape) == len(wanted[name])
        and all(isinstance(n, str) or n == m for m, n in zip(shape, wanted[name], strict=True))
        for name, shape in given.items()
    )
