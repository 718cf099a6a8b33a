"""What goes over the wire: the request as BentoML hands it on, and the bodies of answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import bentoml
import orjson
import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from dimml.errors import InputError
from serving.capacity import get_capacity
from serving.http.parsing import RawRequest
from serving.settings import get_settings

RECORD = "dimml"
"""Key of the request's log record in its ASGI scope."""

Code = Literal[
    "no_modality",
    "unreadable",
    "too_large",
    "unsupported_type",
    "unknown_field",
    "invalid_request",
    "unauthorized",
    "not_found",
    "overloaded",
    "timeout",
    "internal",
]

STATUSES: dict[str, int] = {
    "no_modality": 400,
    "unreadable": 400,
    "unknown_field": 422,
    "invalid_request": 422,
    "unsupported_type": 415,
    "too_large": 413,
    "unauthorized": 401,
    "overloaded": 503,
}
"""The status of each code."""

OVERLOADED = "as many requests as may wait are waiting; try again shortly"
RETRY_AFTER_SECONDS = 1

REQUEST_SCHEMA: dict[str, Any] = {
    "title": "PredictRequest",
    "type": "object",
    "description": "Any non-empty subset of the bundle's modalities; `/bundle` names them.",
    "additionalProperties": True,
}


class ModalityAnswer(pydantic.BaseModel):
    """What one modality said; an absent one has weight 0 and no label."""

    present: bool
    label: str | None
    confidence: float | None
    weight: float
    warnings: list[str]


class PredictAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """The prediction: `dimml.Prediction.to_dict()`."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    prediction_set: list[str]
    modalities: dict[str, ModalityAnswer]
    bundle: str


class Problem(pydantic.BaseModel):
    """What was wrong, what is accepted, and the field it is about."""

    code: Code
    message: str
    field: str | None


class ErrorAnswer(pydantic.BaseModel):
    """The body of every answer that is not a success."""

    error: Problem


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that has been read: what to compute, and what its handler needs beside it.

    Attributes:
        request: to compute.
        record: what the request log will say of it.
        is_gone: whether the client has left.
    """

    request: RawRequest
    record: dict[str, Any]
    is_gone: Callable[[], Awaitable[bool]]


class PredictRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """Reads a request without BentoML's own parser.

    That one answers 500 to malformed input, fetches URLs that stand where a file belongs and has
    no limit. Parsing proper needs the bundle, so the handler does it (`serving.http.parsing`).
    """

    # BentoML then passes what `from_http_request` returns on as the one positional argument.
    __root_input__: ClassVar[bool] = True

    @classmethod
    async def from_http_request(
        cls, request: Request, serde: object
    ) -> Submission | InputError | None:
        """The request, or what is wrong with it before its content is looked at.

        None where too many bodies are being read to take in this one.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            return InputError("unsupported_type", "Content-Encoding is not accepted; send as is")
        limit = get_settings().max_body_bytes
        try:
            body = await _read_body(request, limit)
        except _TooManyBodies:
            return None
        except ClientDisconnect:
            return InputError("invalid_request", "the connection closed before the body's end")
        if body is None:
            return InputError("too_large", f"the body is over the limit of {limit:,} bytes")
        query = request.scope["query_string"].decode("latin-1")
        raw = RawRequest(request.headers.get("content-type", ""), query, body)
        return Submission(raw, request.scope.get(RECORD, {}), request.is_disconnected)

    @classmethod
    def mime_type(cls) -> str:
        """What BentoML's own documentation of the service names."""
        return "multipart/form-data"

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema without a bundle; `/openapi.json` has the modalities of the one served."""
        return dict(REQUEST_SCHEMA)

    @classmethod
    def openapi_components(cls, name: str) -> dict[str, Any]:
        """None: the schema above refers to nothing."""
        return {}


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return Response(body, status, headers, "application/json")


def error_body(code: str, message: str, field: str | None = None) -> bytes:
    """The body of an error, see `ErrorAnswer`."""
    return orjson.dumps({"error": {"code": code, "message": message, "field": field}})


def overloaded_answer() -> Response:
    """The response where as many requests as may wait do."""
    return json_answer(
        error_body("overloaded", OVERLOADED), 503, {"Retry-After": str(RETRY_AFTER_SECONDS)}
    )


def error_answer(error: InputError) -> Response:
    """The response to a request that cannot be predicted."""
    body = error_body(error.code, error.message, error.field)
    return json_answer(body, STATUSES[error.code])


class _TooManyBodies(Exception):  # noqa: N818 (it is no error)
    """The bodies being read take as much memory as they may together."""


@dataclass
class _Held:
    """Bytes of bodies that are still being read, in this process."""

    bytes: int = 0


_HELD = _Held()


async def _read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None where it is over the limit; a declared length is not trusted."""
    declared = request.headers.get("content-length", "0")
    too_large = declared.isdecimal() and int(declared) > limit
    most = get_capacity().queue * limit
    chunks: list[bytes] = []
    received = kept = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            too_large = too_large or received > limit
            if not too_large:
                chunks.append(chunk)
                kept += len(chunk)
                _HELD.bytes += len(chunk)
                if _HELD.bytes > most:
                    raise _TooManyBodies
            elif received > 2 * limit:
                break
    finally:
        _HELD.bytes -= kept
    # What is over the limit is read and dropped for a while, because a client that is cut off
    # while it sends sees a reset connection instead of the answer.
    return None if too_large else b"".join(chunks)
