"""From a batch of raw requests to their answers, stage by stage."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dimml.errors import InputError
from dimml.outputs import PreparedSample
from dimml.predictor import Predictor, SampleRequest
from dimml.samples import Prediction
from serving.http.parsing import Fields, RawRequest, parse_body, parse_query
from serving.metrics import BATCH, STAGES, count_predictions
from serving.settings import Settings

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request is answered with.

    Attributes:
        content: the prediction or what is wrong with the request.
        trace: what the request log says of its batch: its size, and milliseconds in each stage.
    """

    content: Prediction | InputError
    trace: dict[str, float]


class Pipeline:
    """Parses, decodes, preprocesses, encodes and classifies a batch, one stage after the other.

    Staging keeps each stage's code and data in the processor's caches, and lets each encoder run
    once per batch. A request that cannot be predicted leaves at the stage that finds out.

    Args:
        predictor: of the bundle served.
        fields: what the parser has to know of its modalities.
        settings: the caps on a body's parts.
        threads: that decode and preprocess; with one, the caller's does.
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
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def answer(self, requests: Sequence[RawRequest]) -> list[Answer]:
        """The answers, in order."""
        BATCH.observe(len(requests))
        trace: dict[str, float] = {"batch": len(requests)}
        with _timed("parse", trace):
            parsed = [self._parse(request) for request in requests]
        with _timed("decode", trace):
            decoded = self._each(self._predictor.decode, parsed)
        with _timed("preprocess", trace):
            prepared = self._each(self._predictor.preprocess, decoded)
        predictions = iter(
            self._predict([p for p in prepared if isinstance(p, PreparedSample)], trace)
        )
        contents = (p if isinstance(p, InputError) else next(predictions) for p in prepared)
        return [Answer(content, trace) for content in contents]

    def _predict(
        self, ready: Sequence[PreparedSample], trace: dict[str, float]
    ) -> list[Prediction]:
        if not ready:
            return []
        with _timed("encode", trace):
            encoded = self._predictor.encode(ready)
        with _timed("classify", trace):
            predictions = self._predictor.classify(ready, encoded)
        count_predictions(predictions)
        return predictions

    def _parse(self, request: RawRequest) -> SampleRequest | InputError:
        try:
            on_unreadable = parse_query(request.query)
            return self._parse_body(request.content_type, request.body), on_unreadable
        except InputError as error:
            return error

    def _each(
        self, stage: Callable[[Sequence[Given]], list[Made]], items: Sequence[Given]
    ) -> list[Made]:
        """A stage of all items: at once, or where there are threads, shared out among them."""
        if self._pool is None:
            return stage(items)
        return list(self._pool.map(lambda item: stage([item])[0], items))


@contextmanager
def _timed(stage: str, trace: dict[str, float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    STAGES[stage].observe(seconds)
    trace[f"{stage}_ms"] = round(1000 * seconds, 3)
