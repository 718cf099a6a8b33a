"""From samples to predictions: the whole data flow."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np

from dimml.bundle import Bundle
from dimml.errors import BundleError, DimmlError, InputError, ProviderError, UsageError
from dimml.modalities import Arrays, Kind, Limits
from dimml.outputs import FusedBatch, PreparedSample, build_predictions
from dimml.runtime.execution import DataPath, EncoderCall, load_path
from dimml.runtime.providers import GpuOptions, Provider, choose_provider, compute_error
from dimml.samples import OnUnreadable, Prediction, Sample, is_absent

logger = logging.getLogger("dimml")

SampleRequest: TypeAlias = tuple[Sample, OnUnreadable]
BATCH_SIZE = 64
EAGER_PREPROCESS_BYTES = 4_000_000
"""Bytes of a decoded value over which it is preprocessed at once, not with its batch."""


@dataclass(slots=True)
class DecodedSample:
    """One sample on its way from its values to the arrays of its encoders.

    Attributes:
        sample, on_unreadable: what was asked.
        raw: the decoded form of what is present.
        arrays: what of it is preprocessed already.
        warnings: of what was given.
        error: why there is no answer.
    """

    sample: Sample
    on_unreadable: OnUnreadable
    raw: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Arrays] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    error: InputError | None = None


@dataclass(frozen=True)
class EncodedBatch:
    """A batch after its encoders.

    Attributes:
        features: of the path that made it; on a GPU they lie there, to be classified once.
        present: bool [N, modalities].
    """

    features: Any
    present: np.ndarray


class Predictor:
    """Answers for any non-empty subset of a bundle's modalities.

    Build one with `Predictor.load`. It may be shared between threads.

    Attributes:
        bundle: what it answers for.
        kinds: modality to kind, in slot order.
        labels: what it tells apart.
        provider: the execution provider in use: "cuda", "tensorrt" or "cpu".
    """

    def __init__(
        self, bundle: Bundle, kinds: Mapping[str, Kind], path: DataPath, provider: Provider
    ) -> None:
        self.bundle = bundle
        self.kinds = kinds
        self.labels = bundle.manifest.labels
        self.provider = provider
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
        """Loads a bundle.

        Args:
            path: the bundle's folder.
            providers: "auto" (CUDA where it can be had), "cuda", "tensorrt" or "cpu".
            threads: onnxruntime threads per graph.
            limits: caps on what one sample may hold.
            gpu: how a GPU is used.

        Raises:
            BundleError: the folder is not a sound bundle.
            ProviderError: a provider was asked for by name and cannot be had.
        """
        bundle = Bundle.load(path)
        kinds = bundle.kinds(limits)
        gpu = gpu or GpuOptions()
        provider = choose_provider(providers)
        try:
            predictor = cls(
                bundle, kinds, load_path(bundle, kinds, provider, threads, gpu), provider
            )
            if provider != "cpu":
                predictor._compute_something(gpu)
        except ProviderError as error:
            if providers != "auto":
                raise
            # All of CUDA is there and yet it does not compute, for want of memory for example.
            logger.info("provider cpu: %s", error.message)
            return cls(bundle, kinds, load_path(bundle, kinds, "cpu", threads, gpu), "cpu")
        return predictor

    def _compute_something(self, gpu: GpuOptions) -> None:
        """Raises what is wrong with a GPU before anything else is asked of it."""
        try:
            self.warm_up()
        except DimmlError:
            raise
        except Exception as error:
            raise compute_error(self.provider, gpu, f"it does not compute: {error}") from error

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
        if on_unreadable not in get_args(OnUnreadable):
            raise UsageError(f"on_unreadable is 'error' or 'absent', not {on_unreadable!r}")
        answers: list[Prediction | InputError] = []
        for start in range(0, len(samples), BATCH_SIZE):
            given = [(sample, on_unreadable) for sample in samples[start : start + BATCH_SIZE]]
            answers += self.predict_prepared(self.preprocess(self.decode(given)))
        return answers

    def predict_prepared(
        self, batch: Sequence[PreparedSample | InputError]
    ) -> list[Prediction | InputError]:
        """Runs the graphs on what `prepare` returned; errors pass through in their place."""
        ready = [item for item in batch if isinstance(item, PreparedSample)]
        answers = iter(self.classify(ready, self.encode(ready)) if ready else [])
        return [item if isinstance(item, InputError) else next(answers) for item in batch]

    def prepare(self, sample: Sample, on_unreadable: OnUnreadable) -> PreparedSample | InputError:
        """Decodes and preprocesses what a sample has."""
        [prepared] = self.preprocess(self.decode([(sample, on_unreadable)]))
        return prepared

    def decode(
        self, requests: Sequence[SampleRequest | InputError]
    ) -> list[DecodedSample | InputError]:
        """Reads what samples have, one modality after the other.

        In that order code and data stay in the processor's caches. A sample that has no modality,
        an unknown one or an unreadable value becomes its error, and an error stays one.
        """
        decoded = [r if isinstance(r, InputError) else DecodedSample(*r) for r in requests]
        samples = [item for item in decoded if isinstance(item, DecodedSample)]
        for item in samples:
            item.error = self._wrong_name(item.sample)
        for name, kind in self.kinds.items():
            for item in samples:
                if item.error is None:
                    _read(item, name, kind)
        for item in samples:
            if not (item.error or item.raw or item.arrays):
                item.error = self._nothing_present(item.warnings)
        return [
            item.error if isinstance(item, DecodedSample) and item.error else item
            for item in decoded
        ]

    def preprocess(
        self, decoded: Sequence[DecodedSample | InputError]
    ) -> list[PreparedSample | InputError]:
        """Turns what was read into the arrays that the encoders take; errors stay."""
        for name, kind in self.kinds.items():
            for item in decoded:
                if isinstance(item, DecodedSample) and name in item.raw:
                    item.arrays[name] = kind.preprocess(item.raw.pop(name))
        return [
            item if isinstance(item, InputError) else PreparedSample(item.arrays, item.warnings)
            for item in decoded
        ]

    def encode(self, batch: Sequence[PreparedSample]) -> EncodedBatch:
        """Runs each encoder once per group of equal shapes, on the samples that have its input."""
        present = np.zeros((len(batch), len(self.kinds)), bool)
        groups = []
        for slot, (name, kind) in enumerate(self.kinds.items()):
            buckets: dict[object, list[int]] = defaultdict(list)
            for row, item in enumerate(batch):
                if name in item.arrays:
                    buckets[kind.bucket(item.arrays[name])].append(row)
            for rows in buckets.values():
                inputs = kind.collate([batch[row].arrays[name] for row in rows])
                groups.append(EncoderCall(slot, rows, inputs))
                present[rows, slot] = True
        return EncodedBatch(self._path.encode(groups, present), present)

    def classify(self, batch: Sequence[PreparedSample], encoded: EncodedBatch) -> list[Prediction]:
        """Fuses the features of a batch into its predictions."""
        return build_predictions(self.bundle, batch, self.fuse(encoded))

    def fuse(self, encoded: EncodedBatch) -> FusedBatch:
        """Fuses the features of a batch into its answers, as arrays."""
        outputs = self._path.classify(encoded.features, encoded.present)
        return FusedBatch.of(self.bundle, encoded.present, *outputs)

    def warm_up(self, batch_size: int = 1) -> None:
        """Runs every graph on example inputs, through the path of real samples."""
        self._path.warm_up(batch_size)
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

    def _wrong_name(self, sample: Sample) -> InputError | None:
        if not isinstance(sample, Mapping):
            return InputError(
                "invalid_request",
                f"a sample maps modality names to values; got {type(sample).__name__}",
            )
        if unknown := [name for name in sample if name not in self.kinds]:
            return InputError(
                "unknown_field",
                f"the bundle has no modality of this name; it has {', '.join(self.kinds)}",
                str(unknown[0]),
            )
        return None


def _read(item: DecodedSample, name: str, kind: Kind) -> None:
    """Decodes one modality of a sample; a large one is made small at once."""
    if is_absent(value := item.sample.get(name)):
        return
    try:
        raw = kind.decode(value)
        item.warnings[name] = kind.warnings(raw)
    except InputError as error:
        if item.on_unreadable == "error":
            item.error = error
        item.warnings[name] = (f"{error.code}: {error.message}",)
        return
    # A batch of large pictures, all decoded, would take gigabytes.
    if kind.memory(raw) > EAGER_PREPROCESS_BYTES:
        item.arrays[name] = kind.preprocess(raw)
    else:
        item.raw[name] = raw
