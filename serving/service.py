"""The service: `serving.service:Dimml`. Importing it needs no bundle."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import bentoml
import orjson
from bentoml.exceptions import BentoMLConfigException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dimml.errors import DimmlError, InputError
from serving.metrics import PROVIDER
from serving.middleware import AnswerMiddleware
from serving.parsing import parse_body, parse_query
from serving.schemas import (
    PredictAnswer,
    PredictRequest,
    RawRequest,
    error_answer,
    json_answer,
)
from serving.settings import Settings, get_settings

if TYPE_CHECKING:
    from dimml.predictor import Predictor

MAX_DEFAULT_WORKERS = 4

logger = logging.getLogger("bentoml.dimml")

# BentoML reports its use to its makers unless told otherwise, and reads this when it serves.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")


def _settings() -> Settings:
    try:
        return get_settings()
    except DimmlError as error:
        # BentoML's command line shows this one as a message, any other as a traceback.
        raise BentoMLConfigException(error.message) from error


def _workers(settings: Settings) -> int:
    if settings.workers is not None:
        return settings.workers
    from dimml.runtime import available_cores

    return min(available_cores(), MAX_DEFAULT_WORKERS)


def _load(settings: Settings) -> Predictor:
    """The predictor, warm."""
    from dimml.predictor import Predictor
    from serving.describe import limits_of

    try:
        predictor = Predictor.load(
            settings.bundle, settings.providers, threads=1, limits=limits_of(settings)
        )
        predictor.warm_up()
    except DimmlError as error:
        if bentoml.server_context.worker_index is None:
            raise
        # In a worker, raising prints three tracebacks, and again each time it is restarted.
        logger.critical("cannot serve: %s", error.message)
        os._exit(error.exit_code)
    return predictor


@bentoml.service(
    name="dimml",
    workers=_workers(_settings()),
    threads=_settings().threads,
    # `AnswerMiddleware` keeps the time; this one must not come first, its 504 has another body.
    traffic={"timeout": _settings().timeout + 5},
    tracing={"excluded_urls": ".*"},
    # Read by numpy's and scipy's libraries as they load: each worker has one core to itself.
    envs=[
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
    ],
)
class Dimml:
    """Predicts from any non-empty subset of a bundle's modalities."""

    def __init__(self) -> None:
        from serving.describe import describe, fields_of
        from serving.openapi import document

        settings = get_settings()
        self.predictor = _load(settings)
        self.fields = fields_of(self.predictor)
        description = describe(self.predictor, settings)
        self.description = orjson.dumps(description)
        self.openapi = orjson.dumps(document(description, self.fields))
        PROVIDER.labels(self.predictor.provider).set(1)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    @staticmethod
    def check() -> None:
        """Runs once before any worker starts, which BentoML would restart for ever."""
        from dimml.bundle import Bundle

        settings = get_settings()
        try:
            Bundle.load(settings.bundle)
            if settings.providers == "cuda":
                from dimml.runtime import choose_provider

                choose_provider(settings.providers)
        except DimmlError as error:
            raise BentoMLConfigException(
                f"{error.message}; DIMML_BUNDLE names the bundle, DIMML_PROVIDERS the provider"
            ) from error

    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict", input_spec=PredictRequest, output_spec=PredictAnswer
    )
    def predict(self, request: RawRequest | InputError, /) -> Any:
        """Predicts from one sample: any non-empty subset of the bundle's modalities."""
        if isinstance(request, InputError):
            return error_answer(request)
        try:
            return json_answer(self.answer(request))
        except InputError as error:
            return error_answer(error)

    def answer(self, request: RawRequest) -> dict[str, Any]:
        """The prediction for one request, as plain JSON types.

        Raises:
            InputError: the request cannot be predicted.
        """
        on_unreadable = parse_query(request.query)
        sample = parse_body(request.content_type, request.body, self.fields)
        return self.predictor.predict(sample, on_unreadable=on_unreadable).to_dict()


async def _bundle(_: Request) -> Response:
    return json_answer(bentoml.get_current_service().description)


async def _openapi(_: Request) -> Response:
    return json_answer(bentoml.get_current_service().openapi)


_service: Any = Dimml
_service.add_asgi_middleware(AnswerMiddleware)
_service.mount_asgi_app(
    Starlette(
        routes=[
            Route("/bundle", _bundle),
            Route("/openapi.json", _openapi),
            # In place of BentoML's: its document lacks the modalities, its page calls Google.
            Route("/docs.json", _openapi),
            Route("/", _bundle),
        ]
    ),
    name="pages",
)
