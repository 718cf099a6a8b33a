"""The predictor: from samples to predictions."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np

from dimml.bundle import Bundle
from dimml.decode import DecodedSample, decode_modality
from dimml.details import NO_DETAILS, Details, add_details, late_dim
from dimml.errors import AbsentError, BundleError, DimmlError, InputError, ProviderError, UsageError
from dimml.modalities import Kind, Limits
from dimml.outputs import EncodedBatch, FusedBatch, PreparedSample, build_predictions
from dimml.runtime.execution import EncoderCall, HostPath, load_data_path
from dimml.runtime.providers import GpuOptions, Provider, choose_provider, compute_error
from dimml.samples import OnUnreadable, Prediction, Sample

logger = logging.getLogger("dimml")

SampleRequest: TypeAlias = tuple[Sample, OnUnreadable]
BATCH_SIZE = 64


class Predictor:
    """Predicts from any non-empty subset of the modalities of a bundle.

    Create a predictor with `Predictor.load`. Threads may share a predictor.

    Attributes:
        bundle: The loaded bundle.
        kinds: Modality to kind, in slot order.
        labels: Labels of the bundle.
        provider: Execution provider in use: "cuda", "tensorrt" or "cpu".
        shared_columns: Column to the modalities that read it, see `Bundle.shared_columns`.
    """

    def __init__(
        self, bundle: Bundle, kinds: Mapping[str, Kind], path: HostPath, provider: Provider
    ) -> None:
        self.bundle = bundle
        self.kinds = kinds
        self.labels = bundle.manifest.labels
        self.provider = provider
        self.shared_columns = bundle.shared_columns
        self._path = path

    @classmethod
    def load(
        cls,
        path: str | Path,
        providers: str = "auto",
        threads: int = 1,
        limits: Limits | None = None,
        gpu: GpuOptions | None = None,
    ) -> Predictor:
        """Load a bundle.

        Args:
            path: Folder of the bundle.
            providers: "auto" (CUDA if available, else the CPU), "cuda", "tensorrt" or "cpu".
            threads: onnxruntime threads per graph.
            limits: Limits on the values of a sample.
            gpu: Options of the GPU.

        Raises:
            BundleError: If the folder is not a valid bundle.
            ProviderError: If `providers` names a provider that is not available.
        """
        bundle = Bundle.load(path)
        kinds = bundle.kinds(limits)
        gpu = gpu or GpuOptions()
        provider = choose_provider(providers)
        try:
            data_path = load_data_path(bundle, kinds, provider, threads, gpu)
            predictor = cls(bundle, kinds, data_path, provider)
            if provider != "cpu":
                predictor._check_gpu(gpu)
        except ProviderError as error:
            if providers != "auto":
                raise
            # CUDA is installed but does not work, for example because the GPU memory is full.
            logger.info("provider cpu: %s", error.message)
            return cls(bundle, kinds, load_data_path(bundle, kinds, "cpu", threads, gpu), "cpu")
        return predictor

    def _check_gpu(self, gpu: GpuOptions) -> None:
        """Run every graph once, so that a GPU that does not work fails here and not later."""
        try:
            self.warm_up()
        except DimmlError:
            raise
        except Exception as error:
            raise compute_error(self.provider, gpu, f"it does not compute: {error}") from error

    def predict(
        self,
        sample: Sample,
        *,
        on_unreadable: OnUnreadable = "error",
        features: bool = False,
        explain: bool = False,
    ) -> Prediction:
        """Predict one sample.

        Args:
            sample: Modality name to value, see `Sample`.
            on_unreadable: With "absent", an unreadable value makes its modality absent and adds a
                warning, and the other modalities are used.
            features: Whether to return a `DetailedPrediction` with features.
            explain: Whether to return a `DetailedPrediction` with the answer without each modality.

        Raises:
            InputError: If the sample has no modality, an unknown modality or an unreadable value.
        """
        [prediction] = self.predict_many(
            [sample], on_unreadable=on_unreadable, features=features, explain=explain
        )
        if isinstance(prediction, InputError):
            raise prediction
        return prediction

    def predict_many(
        self,
        samples: Sequence[Sample],
        *,
        on_unreadable: OnUnreadable = "error",
        features: bool = False,
        explain: bool = False,
    ) -> list[Prediction | InputError]:
        """Return the prediction or the error for each sample. An error affects only its sample.

        A prediction does not depend on the other samples in the list (within 1e-5).
        """
        if on_unreadable not in get_args(OnUnreadable):
            raise UsageError(f"on_unreadable must be 'error' or 'absent', not {on_unreadable!r}")
        details = Details(features, explain)
        predictions: list[Prediction | InputError] = []
        for start in range(0, len(samples), BATCH_SIZE):
            batch = [(sample, on_unreadable) for sample in samples[start : start + BATCH_SIZE]]
            prepared = self.preprocess(self.decode(batch))
            predictions += self.predict_prepared(prepared, details)
        return predictions

    def predict_prepared(
        self, batch: Sequence[PreparedSample | InputError], details: Details = NO_DETAILS
    ) -> list[Prediction | InputError]:
        """Run the graphs on a prepared batch. Errors keep their positions."""
        ready = [item for item in batch if isinstance(item, PreparedSample)]
        wanted = [details] * len(ready)
        predictions = iter(self.classify(ready, self.encode(ready), wanted) if ready else [])
        return [item if isinstance(item, InputError) else next(predictions) for item in batch]

    def prepare(self, sample: Sample, on_unreadable: OnUnreadable) -> PreparedSample | InputError:
        """Decode and preprocess one sample."""
        [prepared] = self.preprocess(self.decode([(sample, on_unreadable)]))
        return prepared

    def decode(
        self, requests: Sequence[SampleRequest | InputError]
    ) -> list[DecodedSample | InputError]:
        """Decode the values of a batch, one modality after the other.

        A sample without a modality, with an unknown modality or with an unreadable value is
        replaced by its error. Errors among `requests` keep their positions.
        """
        decoded = [r if isinstance(r, InputError) else DecodedSample(*r) for r in requests]
        samples = [item for item in decoded if isinstance(item, DecodedSample)]
        for item in samples:
            item.error = self._name_error(item.sample)
            if item.error is None and not self.shared_columns.keys().isdisjoint(item.sample):
                self._share(item)
        # One modality at a time keeps its code and data in the caches of the processor.
        for name, kind in self.kinds.items():
            for item in samples:
                if item.error is None:
                    decode_modality(item, name, kind)
        for item in samples:
            if not (item.error or item.raw or item.arrays):
                item.error = self._absence_error(item)
        return [
            item.error if isinstance(item, DecodedSample) and item.error else item
            for item in decoded
        ]

    def preprocess(
        self, decoded: Sequence[DecodedSample | InputError]
    ) -> list[PreparedSample | InputError]:
        """Convert decoded samples to the input arrays of the encoders. Errors keep their places."""
        for name, kind in self.kinds.items():
            for item in decoded:
                if isinstance(item, DecodedSample) and name in item.raw:
                    item.arrays[name] = kind.preprocess(item.raw.pop(name))
        return [
            item
            if isinstance(item, InputError)
            else PreparedSample(item.arrays, item.warnings, item.unreadable)
            for item in decoded
        ]

    def encode(self, batch: Sequence[PreparedSample]) -> EncodedBatch:
        """Run each encoder on the samples with its modality, in calls of about equal shapes."""
        present = np.zeros((len(batch), len(self.kinds)), bool)
        calls = []
        for slot, (name, kind) in enumerate(self.kinds.items()):
            buckets: dict[object, list[int]] = defaultdict(list)
            for row, item in enumerate(batch):
                if name in item.arrays:
                    buckets[kind.bucket(item.arrays[name])].append(row)
            for rows in buckets.values():
                items = [batch[row].arrays[name] for row in rows]
                calls.append(EncoderCall(slot, kind, rows, items))
                present[rows, slot] = True
        return EncodedBatch(self._path.encode(calls, present), present)

    def classify(
        self,
        batch: Sequence[PreparedSample],
        encoded: EncodedBatch,
        details: Sequence[Details] = (),
    ) -> list[Prediction]:
        """Fuse the features of a batch and return the predictions.

        Args:
            batch: The samples.
            encoded: The batch after the encoders.
            details: What each prediction adds; nothing by default.
        """
        predictions = build_predictions(self.bundle, batch, self.fuse(encoded))
        if all(wanted == NO_DETAILS for wanted in details):
            return predictions
        return add_details(self.bundle, predictions, encoded, details, self.fuse)

    def read_features(self, encoded: EncodedBatch) -> np.ndarray:
        """Return what the shared classifier reads, float32 [N, modalities, D].

        Raises:
            UsageError: If the bundle does not state D.
        """
        return encoded.features[..., : late_dim(self.bundle)]

    def fuse(self, encoded: EncodedBatch) -> FusedBatch:
        """Fuse the features of a batch and return the predictions as arrays."""
        outputs = self._path.classify(encoded.features, encoded.present)
        return FusedBatch.of(self.bundle, encoded.present, outputs)

    def warm_up(self, batch_size: int = 1) -> None:
        """Run every graph on example inputs through the same steps as real samples."""
        self._path.warm_up(batch_size)
        example = {name: kind.example() for name, kind in self.kinds.items()}
        for prediction in self.predict_many([example] * batch_size):
            if isinstance(prediction, InputError):
                raise BundleError(f"{self.bundle.id} cannot predict its own example: {prediction}")

    def _share(self, item: DecodedSample) -> None:
        """Give the value of a shared column to each of its modalities without a value."""
        sample = dict(item.sample)
        for column, names in self.shared_columns.items():
            value = sample.pop(column, None)
            if hasattr(value, "read"):
                # An open file can be read once.
                try:
                    value = self.kinds[names[0]].read_bytes(value)
                except InputError as error:
                    item.error = error
            for name in names:
                sample.setdefault(name, value)
        item.sample = sample

    def _absence_error(self, item: DecodedSample) -> InputError:
        reasons = "; ".join(f"{name}: {text}" for name, (text, *_) in item.warnings.items())
        return (AbsentError if reasons and not item.unreadable else InputError)(
            "no_modality",
            f"the sample has no modality: give at least one of {', '.join(self.kinds)}"
            + (f" ({reasons})" if reasons else ""),
        )

    def _name_error(self, sample: Sample) -> InputError | None:
        if not isinstance(sample, Mapping):
            return InputError(
                "invalid_request",
                f"a sample must map modality names to values, got {type(sample).__name__}",
            )
        known = {**self.shared_columns, **self.kinds}
        if unknown := [name for name in sample if name not in known]:
            return InputError(
                "unknown_field",
                f"the bundle has no modality of this name; it has {', '.join(self.kinds)}",
                str(unknown[0]),
            )
        return None
