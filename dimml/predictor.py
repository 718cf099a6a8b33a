"""From samples to predictions: the whole data flow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from dimml.answers import Outputs, Prepared, build_predictions
from dimml.bundle import Bundle
from dimml.errors import BundleError, InputError, UsageError
from dimml.fits import check_fits
from dimml.modalities import Kind, Limits
from dimml.runtime import Graph, choose_provider
from dimml.samples import Prediction, Sample, is_absent

OnUnreadable = Literal["error", "absent"]
Made = TypeVar("Made")
BATCH_SIZE = 64
LARGE = 4_000_000
"""Bytes of a decoded sample over which it is preprocessed at once, not with its batch."""


@dataclass(frozen=True)
class Decoded:
    """One sample after decoding: the raw form of what is present, warnings of what was given."""

    raw: Mapping[str, Any]
    warnings: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Encoded:
    """A batch after its encoders: what the classifier graph takes.

    Attributes:
        features: float32 [N, modalities, D]; zeros where a modality is absent.
        present: bool [N, modalities].
    """

    features: np.ndarray
    present: np.ndarray


class Predictor:
    """Answers for any non-empty subset of a bundle's modalities.

    Build one with `Predictor.load`. It may be shared between threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        kinds: Mapping[str, Kind],
        encoders: Mapping[str, Graph],
        classifier: Graph,
    ) -> None:
        self.bundle = bundle
        self.kinds = kinds
        self.labels = bundle.manifest.labels
        self._encoders = encoders
        self._classifier = classifier

    @classmethod
    def load(
        cls,
        path: str | Path,
        providers: str = "auto",
        threads: int = 1,
        limits: Limits | None = None,
        device: int = 0,
    ) -> Predictor:
        """Loads a bundle.

        Args:
            path: the bundle's folder.
            providers: "auto" (CUDA where it can be had), "cuda" or "cpu".
            threads: onnxruntime threads per graph.
            limits: caps on what one sample may hold.
            device: number of the GPU, on CUDA.

        Raises:
            BundleError: the folder is not a sound bundle.
            ProviderError: "cuda" was asked for and cannot be had.
        """
        bundle = Bundle.load(path)
        provider = choose_provider(providers)
        encoders = {
            name: Graph(bundle.path / spec.graph, provider, threads, device)
            for name, spec in bundle.manifest.modalities.items()
        }
        classifier = Graph(bundle.path / bundle.manifest.classifier, provider, threads, device)
        check_fits(bundle, encoders, classifier)
        return cls(bundle, bundle.kinds(limits), encoders, classifier)

    @property
    def provider(self) -> str:
        """The execution provider in use: "cuda" or "cpu"."""
        return self._classifier.provider

    def predict(self, sample: Sample, *, on_unreadable: OnUnreadable = "error") -> Prediction:
        """The prediction for one sample.

        Args:
            sample: modality name to value, see `Sample`.
            on_unreadable: "absent" lets the other modalities answer for one that cannot be read,
                and says so in its warnings.

        Raises:
            InputError: the sample has no modality, an unknown one, or an unreadable value.
        """
        [answer] = self.predict_many([sample], on_unreadable=on_unreadable)
        if isinstance(answer, InputError):
            raise answer
        return answer

    def predict_many(
        self, samples: Sequence[Sample], *, on_unreadable: OnUnreadable = "error"
    ) -> list[Prediction | InputError]:
        """A prediction, or the error, for each sample: a bad one never fails its neighbours.

        An answer does not depend on what else is in the list (1e-5).
        """
        if on_unreadable not in ("error", "absent"):
            raise UsageError(f"on_unreadable is 'error' or 'absent', not {on_unreadable!r}")
        answers: list[Prediction | InputError] = []
        for start in range(0, len(samples), BATCH_SIZE):
            given = samples[start : start + BATCH_SIZE]
            # Stage by stage, as code and data then stay in the processor's caches.
            read = [attempt(self.read, sample, on_unreadable) for sample in given]
            answers += self.predict_prepared([attempt(self.preprocess, item) for item in read])
        return answers

    def predict_prepared(
        self, batch: Sequence[Prepared | InputError]
    ) -> list[Prediction | InputError]:
        """Runs the graphs on what `prepare` returned; errors pass through in their place."""
        ready = [item for item in batch if isinstance(item, Prepared)]
        answers = iter(self.classify(ready, self.encode(ready)) if ready else [])
        return [item if isinstance(item, InputError) else next(answers) for item in batch]

    def prepare(self, sample: Sample, on_unreadable: OnUnreadable) -> Prepared | InputError:
        """Decodes and preprocesses what a sample has."""
        return attempt(self.preprocess, attempt(self.read, sample, on_unreadable))

    def read(self, sample: Sample, on_unreadable: OnUnreadable) -> Decoded | Prepared:
        """Decodes a sample, and preprocesses it where a batch of its like would take gigabytes.

        Raises:
            InputError: as `decode`.
        """
        decoded = self.decode(sample, on_unreadable)
        size = sum(self.kinds[name].memory(raw) for name, raw in decoded.raw.items())
        return self.preprocess(decoded) if size > LARGE else decoded

    def decode(self, sample: Sample, on_unreadable: OnUnreadable) -> Decoded:
        """Reads what a sample has.

        Raises:
            InputError: the sample has no modality, an unknown one, or an unreadable value.
        """
        self._check_names(sample)
        raw: dict[str, Any] = {}
        warnings: dict[str, tuple[str, ...]] = {}
        for name, kind in self.kinds.items():
            if is_absent(value := sample.get(name)):
                continue
            try:
                raw[name] = kind.decode(value)
                warnings[name] = kind.warnings(raw[name])
            except InputError as error:
                if on_unreadable == "error":
                    raise
                warnings[name] = (f"{error.code}: {error.message}",)
        if not raw:
            raise self._nothing_present(warnings)
        return Decoded(raw, warnings)

    def preprocess(self, decoded: Decoded | Prepared) -> Prepared:
        """Turns what was read into the arrays that the encoders take."""
        if isinstance(decoded, Prepared):
            return decoded
        arrays = {name: self.kinds[name].preprocess(raw) for name, raw in decoded.raw.items()}
        return Prepared(arrays, decoded.warnings)

    def encode(self, batch: Sequence[Prepared]) -> Encoded:
        """Runs each encoder once per group of equal shapes, on the samples that have its input."""
        shape = (len(batch), len(self.kinds))
        features = np.zeros((*shape, self.bundle.manifest.feature_dim), np.float32)
        present = np.zeros(shape, bool)
        for slot, (name, kind) in enumerate(self.kinds.items()):
            buckets: dict[object, list[int]] = defaultdict(list)
            for row, item in enumerate(batch):
                if name in item.arrays:
                    buckets[kind.bucket(item.arrays[name])].append(row)
            for rows in buckets.values():
                inputs = kind.collate([batch[row].arrays[name] for row in rows])
                [features[rows, slot]] = self._encoders[name].run(inputs)
                present[rows, slot] = True
        return Encoded(features, present)

    def classify(self, batch: Sequence[Prepared], encoded: Encoded) -> list[Prediction]:
        """Fuses the features of a batch into its predictions."""
        outputs = self._classifier.run({"features": encoded.features, "present": encoded.present})
        return build_predictions(self.bundle, batch, Outputs(*outputs))

    def warm_up(self, batch_size: int = 1) -> None:
        """Runs every graph once on example inputs, through the path of real samples."""
        example = {name: kind.example() for name, kind in self.kinds.items()}
        for answer in self.predict_many([example] * batch_size):
            if isinstance(answer, InputError):
                raise BundleError(f"{self.bundle.id} cannot answer its own example: {answer}")

    def _nothing_present(self, warnings: Mapping[str, tuple[str, ...]]) -> InputError:
        broken = "; ".join(f"{name}: {text}" for name, (text, *_) in warnings.items())
        return InputError(
            "no_modality",
            f"nothing to predict from: give at least one of {', '.join(self.kinds)}"
            + (f" ({broken})" if broken else ""),
        )

    def _check_names(self, sample: Sample) -> None:
        if not isinstance(sample, Mapping):
            raise InputError(
                "invalid_request",
                f"a sample maps modality names to values; got {type(sample).__name__}",
            )
        if unknown := [name for name in sample if name not in self.kinds]:
            raise InputError(
                "unknown_field",
                f"the bundle has no modality of this name; it has {', '.join(self.kinds)}",
                str(unknown[0]),
            )


def attempt(function: Callable[..., Made], item: Any, *more: Any) -> Made | InputError:
    """What a function makes of an item, or the error; an error in place of an item passes."""
    if isinstance(item, InputError):
        return item
    try:
        return function(item, *more)
    except InputError as error:
        return error
