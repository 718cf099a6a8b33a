"""The stages that turn a batch of raw requests into predictions."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dimml.bundle import Bundle
from dimml.details import NO_DETAILS, Details, late_dim
from dimml.errors import InputError, UsageError
from dimml.outputs import PreparedSample
from dimml.predictor import Predictor, SampleRequest
from dimml.samples import Prediction
from serving.http.parsing import Fields, RawRequest, parse_body
from serving.http.query import parse_query
from serving.metrics import BATCH, STAGES, count_predictions
from serving.settings import Settings

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The result for one request of a batch.

    Attributes:
        content: The prediction, or the error of the request.
        trace: Fields of the batch for the request log: its size, and its milliseconds per stage.
    """

    content: Prediction | InputError
    trace: dict[str, float]


class Pipeline:
    """Parse, decode, preprocess, encode and classify a batch, one stage after the other.

    Running a stage for the whole batch keeps the stage's code and data in the processor's caches
    and runs each encoder once per batch. A request that fails in one stage skips the later stages.

    Args:
        predictor: The predictor of the bundle.
        fields: What each modality of the bundle accepts.
        settings: The limits on the parts of a body.
        threads: Number of threads that decode and preprocess. If 1, the caller's thread does both.
    """

    def __init__(
        self, predictor: Predictor, fields: Fields, settings: Settings, threads: int
    ) -> None:
        self._predictor = predictor
        self._parse_body = functools.partial(
            parse_body,
            fields=fields,
            max_parts=settings.max_parts,
            max_part_bytes=settings.max_part_bytes,
        )
        self._features_problem = _features_problem(predictor.bundle)
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def answer(self, requests: Sequence[RawRequest]) -> list[PipelineResult]:
        """Return the result for each request, in order."""
        BATCH.observe(len(requests))
        trace: dict[str, float] = {"batch": len(requests)}
        with _timed("parse", trace):
            parsed, details = [], []
            for request in requests:
                item, wanted = self._parse(request)
                parsed.append(item)
                details.append(wanted)
        with _timed("decode", trace):
            decoded = self._run_stage(self._predictor.decode, parsed)
        with _timed("preprocess", trace):
            prepared = self._run_stage(self._predictor.preprocess, decoded)
        ready = [p for p in prepared if isinstance(p, PreparedSample)]
        pairs = zip(prepared, details, strict=True)
        details = [wanted for p, wanted in pairs if isinstance(p, PreparedSample)]
        predictions = iter(self._predict(ready, details, trace))
        contents = (p if isinstance(p, InputError) else next(predictions) for p in prepared)
        return [PipelineResult(content, trace) for content in contents]

    def _predict(
        self,
        samples: Sequence[PreparedSample],
        details: Sequence[Details],
        trace: dict[str, float],
    ) -> list[Prediction]:
        if not samples:
            return []
        with _timed("encode", trace):
            encoded = self._predictor.encode(samples)
        with _timed("classify", trace):
            predictions = self._predictor.classify(samples, encoded, details)
        count_predictions(predictions)
        return predictions

    def _parse(self, request: RawRequest) -> tuple[SampleRequest | InputError, Details]:
        """Return the sample or its error, and what the answer adds."""
        try:
            options = parse_query(request.query)
            if options.details.features and self._features_problem:
                raise InputError("invalid_request", self._features_problem, "features")
            sample = self._parse_body(request.content_type, request.body)
            return (sample, options.on_unreadable), options.details
        except InputError as error:
            return error, NO_DETAILS

    def _run_stage(
        self, stage: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]
    ) -> list[Result]:
        """Run a stage on all items at once, or on one item per call if there is a thread pool."""
        if self._pool is None:
            return stage(items)
        return list(self._pool.map(lambda item: stage([item])[0], items))


def _features_problem(bundle: Bundle) -> str | None:
    """Return why the answers of a bundle cannot have features."""
    try:
        late_dim(bundle)
    except UsageError as error:
        return error.message
    return None


@contextmanager
def _timed(stage: str, trace: dict[str, float]) -> Iterator[None]:
    """Record the duration of the block in the metrics and in the trace of the batch."""
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    STAGES[stage].observe(seconds)
    trace[f"{stage}_ms"] = round(1000 * seconds, 3)
