"""The service: `serving.service:Dimml`. Importing it needs no bundle."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import bentoml
import orjson
from bentoml import Service
from bentoml.exceptions import BentoMLConfigException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dimml.errors import DimmlError, InputError
from serving.batching import Abandoned, Batcher, QueueFull
from serving.capacity import Capacity, get_capacity, gpu_of, settle
from serving.http.admission import Keys
from serving.http.errors import HttpError, input_error_response
from serving.http.messages import PredictAnswer, PredictRequest, Submission, json_response
from serving.http.middleware import ServiceMiddleware
from serving.http.parsing import RawRequest
from serving.http.protocol import install
from serving.metrics import PROVIDER, QUEUE, exposition, forget_dead_workers
from serving.settings import Settings, get_settings

if TYPE_CHECKING:
    from dimml.predictor import Predictor
    from serving.pipeline import Answer

SWITCH_SECONDS = 0.0002
"""How long a thread may keep Python's interpreter from another that wants it.

At the usual 5 ms, a flood of requests to refuse keeps it from the thread that computes: each time
that comes back from decoding or from a graph, it waits so long.
"""

logger = logging.getLogger("bentoml.dimml")

# BentoML reports its use to its makers unless told otherwise, and reads this when it serves.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")


def _plan() -> Capacity:
    try:
        return get_capacity()
    except DimmlError as error:
        # BentoML's command line shows this one as a message, any other as a traceback.
        raise BentoMLConfigException(error.message) from error


def _load(settings: Settings) -> Predictor:
    """The predictor, warmed up; workers share out the GPUs."""
    from dimml.machine import cuda_devices
    from dimml.predictor import Predictor
    from serving.http.openapi import limits_of

    worker, plan = bentoml.server_context.worker_index, get_capacity()
    device = ((worker or 1) - 1) % max(1, cuda_devices())
    try:
        predictor = Predictor.load(
            settings.bundle,
            settings.providers,
            plan.threads,
            limits_of(settings),
            gpu_of(settings, device),
        )
        for size in _warm_sizes(predictor.provider, plan.max_batch):
            predictor.warm_up(size)
    except Exception as error:
        if worker is None:
            raise
        # In a worker, raising prints three tracebacks, and again each time it is restarted.
        logger.critical("cannot serve: %s", error)
        os._exit(getattr(error, "exit_code", 1))
    return predictor


def _warm_sizes(provider: str, most: int) -> list[int]:
    """Sizes of batches to show a worker before it is ready.

    On a GPU each that is new costs its first requests seconds, so there are few, see `DevicePath`.
    """
    if provider == "cpu":
        return [1]
    return sorted({*(2**n for n in range(most.bit_length())), most})


class MiddlewareService(Service[Any]):  # type: ignore[misc]
    """A BentoML service with `ServiceMiddleware` around the whole application.

    `add_asgi_middleware` would put it inside BentoML's own middleware, which keeps a task for each
    request and a timer that outlives the request.
    """

    middleware: ServiceMiddleware | None = None

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        # A worker asks for its application immediately before it starts uvicorn.
        self.middleware = ServiceMiddleware(super().to_asgi(is_main))
        install(self.middleware.shed)
        return self.middleware

    def __call__(self) -> Any:
        # The application calls this as it starts, before the worker accepts connections.
        instance = super().__call__()
        if self.middleware:
            self.middleware.connect(instance.predict, instance.batcher)
        return instance


@bentoml.service(
    name="dimml",
    service_class=MiddlewareService,
    workers=_plan().workers,
    # `ServiceMiddleware` keeps the time; this one must not come first, its 504 has another body.
    traffic={"timeout": get_settings().timeout + 5},
    # Each costs a request more than its decoding does; `serving.metrics` and the request log stand
    # in for them.
    tracing={"excluded_urls": ".*"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # Read by numpy's and scipy's libraries as they load: `serving.capacity` shares threads out.
    envs=[
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
    ],
)
class Dimml:
    """Predicts from any non-empty subset of a bundle's modalities."""

    def __init__(self) -> None:
        from serving.http.openapi import describe, document, fields_of
        from serving.pipeline import Pipeline

        sys.setswitchinterval(SWITCH_SECONDS)
        settings, plan = get_settings(), get_capacity()
        self.predictor = _load(settings)
        self.fields = fields_of(self.predictor)
        self.pipeline = Pipeline(self.predictor, self.fields, settings, plan.threads)
        self.batcher = Batcher(self.compute, plan.max_batch, plan.queue)
        description = describe(self.predictor, settings, plan)
        self.description = orjson.dumps(description)
        self.openapi = orjson.dumps(document(description, self.fields))
        PROVIDER.labels(self.predictor.provider).set(1)
        forget_dead_workers()

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Runs once before any worker starts, which BentoML would restart for ever."""
        from dimml.bundle import Bundle

        settings = get_settings()
        try:
            keys = Keys(settings)
        except DimmlError as error:
            raise BentoMLConfigException(error.message) from error
        try:
            Bundle.load(settings.bundle)
            settle(settings)
        except DimmlError as error:
            raise BentoMLConfigException(
                f"{error.message}; DIMML_BUNDLE names the bundle, DIMML_PROVIDERS the provider"
            ) from error
        logger.info("%s; %s", get_capacity(), keys.policy(settings))

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
        return json_response(orjson.dumps(answer.content))

    def compute(self, requests: Sequence[RawRequest]) -> list[Answer]:
        """The answers of a batch."""
        QUEUE.set(self.batcher.depth)
        return self.pipeline.answer(requests)


async def _bundle(_: Request) -> Response:
    return json_response(bentoml.get_current_service().description)


async def _openapi(_: Request) -> Response:
    return json_response(bentoml.get_current_service().openapi)


async def _metrics(_: Request) -> Response:
    return await asyncio.to_thread(exposition)


_service: Any = Dimml
_service.mount_asgi_app(
    Starlette(
        routes=[
            Route("/bundle", _bundle),
            Route("/metrics", _metrics),
            Route("/openapi.json", _openapi),
            # In place of BentoML's: its document lacks the modalities, its page calls Google.
            Route("/docs.json", _openapi),
            Route("/", _bundle),
        ]
    ),
    name="pages",
)
