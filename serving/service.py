"""The service: `serving.service:Dimml`. Importing it needs no bundle."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import bentoml
import orjson
from bentoml import Service
from bentoml._internal.utils.analytics.usage_stats import do_not_track
from bentoml.exceptions import BentoMLConfigException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dimml.errors import DimmlError, InputError
from serving.batching import Abandoned, Batcher, QueueFull
from serving.capacity import get_capacity, gpu_options, set_worker_provider
from serving.http.admission import Keys
from serving.http.cors import Cors
from serving.http.errors import HttpError, input_error_response
from serving.http.lines import LinesPredictor
from serving.http.messages import PredictAnswer, PredictRequest, Submission
from serving.http.middleware import ServiceMiddleware
from serving.http.protocol import install
from serving.metrics import PROVIDER, QUEUE, exposition, forget_dead_workers
from serving.settings import Settings, get_settings, uses_page

if TYPE_CHECKING:
    from dimml.predictor import Predictor
    from serving.page.app import PageApp

SWITCH_INTERVAL_SECONDS = 0.0002
"""The time after which Python's interpreter switches to another thread that waits for it.

With the default of 5 ms, a flood of requests to refuse keeps the interpreter from the thread that
computes, which waits for it after each decoder and each graph.
"""

CPU_BATCH_SECONDS = 0.1
"""Time that a batch on the CPU should take. With slow encoders it holds fewer requests."""

logger = logging.getLogger("bentoml.dimml")

# BentoML's own commands ask before they import this file whether to report their use, and remember
# the answer. `dimml` has set the variable since then.
do_not_track.cache_clear()


@contextmanager
def _config_errors(hint: str = "") -> Iterator[None]:
    """Raise errors of dimml as the error that BentoML's command line shows without a traceback."""
    try:
        yield
    except DimmlError as error:
        raise BentoMLConfigException(error.message + hint) from error


with _config_errors():
    _WORKERS = get_capacity().workers


def _load(settings: Settings) -> Predictor:
    """Load and warm up the predictor; workers share the GPUs."""
    from dimml.machine import cuda_devices
    from dimml.predictor import Predictor
    from serving.http.openapi import sample_limits

    worker, capacity = bentoml.server_context.worker_index, get_capacity()
    device = ((worker or 1) - 1) % max(1, cuda_devices())
    try:
        predictor = Predictor.load(
            settings.bundle,
            settings.providers,
            capacity.threads,
            sample_limits(settings),
            gpu_options(settings, device),
        )
        for size in _warm_up_sizes(predictor.provider, capacity.max_batch):
            predictor.warm_up(size)
    except Exception as error:
        if worker is None:
            raise
        # In a worker, raising prints three tracebacks, and prints them again at every restart.
        logger.critical("cannot serve: %s", error)
        os._exit(getattr(error, "exit_code", 1))
    return predictor


def _load_page(
    predictor: Predictor, description: dict[str, Any], settings: Settings, api: ASGIApp
) -> PageApp | None:
    """Build the web page, unless it is off. Its library takes seconds to import."""
    if not uses_page(settings):
        return None
    from serving.page.app import PageApp

    return PageApp(predictor.bundle, description, settings, api)


def _warm_up_sizes(provider: str, max_batch: int) -> list[int]:
    """Return the batch sizes to run before a worker is ready.

    On a GPU, the first batch of each new size takes seconds; `GpuEncoder` rounds sizes up to
    powers of two. The largest size is first, so that TensorRT builds no engine for each size.
    """
    if provider == "cpu":
        return [1]
    return sorted({*(2**n for n in range(max_batch.bit_length())), max_batch}, reverse=True)


class WrappedService(Service[Any]):  # type: ignore[misc]
    """A BentoML service with `ServiceMiddleware` around everything.

    `add_asgi_middleware` would put it inside BentoML's own middleware, which keeps a task for each
    request, and a timer that outlives it.
    """

    middleware: ServiceMiddleware | None = None

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        # A worker builds its application just before it starts uvicorn.
        settings = get_settings()
        self.middleware = ServiceMiddleware(super().to_asgi(is_main), settings)
        cors = Cors(self.middleware, settings.origins) if settings.origins else None
        install(self.middleware.shed, cors)
        return cors or self.middleware


@bentoml.service(
    name="dimml",
    service_class=WrappedService,
    workers=_WORKERS,
    # `ServiceMiddleware` limits the time. BentoML's limit must not come first: its 504 has another
    # body.
    traffic={"timeout": get_settings().timeout + 5},
    # Each of these costs a request more than its decoding; `serving.metrics` and the request log
    # replace them.
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # The libraries of numpy and scipy read these at import; `serving.capacity` assigns threads.
    envs=[
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
    ],
)
class Dimml:
    """Predicts from any non-empty subset of a bundle's modalities."""

    def __init__(self) -> None:
        from serving.http.openapi import describe, openapi_document, request_fields
        from serving.pipeline import Pipeline

        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        settings, capacity = get_settings(), get_capacity()
        predictor = _load(settings)
        fields = request_fields(predictor)
        pipeline = Pipeline(predictor, fields, settings, capacity.threads)
        # While a GPU computes one batch, the cores decode another. A CPU gains nothing from batches
        # that take long.
        threads, max_seconds = (1, CPU_BATCH_SECONDS) if predictor.provider == "cpu" else (2, None)
        self.batcher = Batcher(
            pipeline.answer, capacity.max_batch, capacity.queue, QUEUE.set, threads, max_seconds
        )
        description = describe(predictor, settings, capacity)
        self.description = orjson.dumps(description)
        self.openapi = orjson.dumps(openapi_document(description, fields))
        PROVIDER.labels(predictor.provider).set(1)
        forget_dead_workers()
        if _service.middleware:
            predict_lines = LinesPredictor(self.batcher, settings, capacity.queue)
            page = _load_page(predictor, description, settings, _service.middleware)
            _service.middleware.connect(self.predict, self.batcher, predict_lines, page)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Check the settings and the bundle once, before workers start.

        BentoML would restart a worker that fails forever.
        """
        from dimml.bundle import Bundle

        settings = get_settings()
        with _config_errors():
            keys = Keys(settings)
            has_page = uses_page(settings)
        with _config_errors("; DIMML_BUNDLE names the bundle, DIMML_PROVIDERS the provider"):
            Bundle.load(settings.bundle)
            set_worker_provider(settings)
        page = "the page is at /" if has_page else "no page at /"
        logger.info("%s; %s; %s", get_capacity(), keys.policy(settings), page)

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict", input_spec=PredictRequest, output_spec=PredictAnswer
    )
    async def predict(self, submission: Submission | Response, /) -> Response:
        """Predict from one sample: any non-empty subset of the bundle's modalities."""
        if isinstance(submission, Response):
            return submission
        try:
            answer = await self.batcher.submit(submission.request, submission.is_gone)
        except QueueFull:
            return HttpError.OVERLOADED.response()
        except Abandoned:
            return HttpError.INVALID_REQUEST.response("the client left")
        submission.record.update(answer.trace)
        if isinstance(answer.content, InputError):
            submission.record["error"] = answer.content.code
            return input_error_response(answer.content)
        return Response(orjson.dumps(answer.content), media_type="application/json")


async def _bundle(_: Request) -> Response:
    return Response(bentoml.get_current_service().description, media_type="application/json")


async def _openapi(_: Request) -> Response:
    return Response(bentoml.get_current_service().openapi, media_type="application/json")


async def _metrics(_: Request) -> Response:
    return await asyncio.to_thread(exposition)


_service: Any = Dimml
_service.mount_asgi_app(
    Starlette(
        routes=[
            Route("/bundle", _bundle),
            Route("/metrics", _metrics),
            Route("/openapi.json", _openapi),
            # These replace BentoML's: its document lacks the modalities, and its page calls Google.
            Route("/docs.json", _openapi),
            Route("/", _bundle),
        ]
    ),
    name="pages",
)
