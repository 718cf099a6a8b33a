"""What goes over the wire: the request as BentoML hands it on, and the bodies of answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import bentoml
import pydantic
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from serving.capacity import get_capacity
from serving.http.errors import HttpError
from serving.http.parsing import RawRequest
from serving.settings import get_settings

RECORD = "dimml"
"""Key of the request's log record in its ASGI scope."""

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

    _unfinished_bytes: ClassVar[int] = 0
    """Bytes of the bodies that this process is reading."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Submission | Response:
        """Return the request, or the response that refuses it before its content is parsed."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            return HttpError.UNSUPPORTED_TYPE.response(
                "Content-Encoding is not accepted; send the body without it"
            )
        try:
            body = await cls._read_body(request, get_settings().max_body_bytes)
        except ClientDisconnect:
            return HttpError.INVALID_REQUEST.response(
                "the connection closed before the end of the body"
            )
        if isinstance(body, Response):
            return body
        query = request.scope["query_string"].decode("latin-1")
        raw = RawRequest(request.headers.get("content-type", ""), query, body)
        return Submission(raw, request.scope.get(RECORD, {}), request.is_disconnected)

    @classmethod
    async def _read_body(cls, request: Request, limit: int) -> bytes | Response:
        """Read the body; a declared length is not trusted."""
        declared = request.headers.get("content-length", "0")
        too_large = declared.isdecimal() and int(declared) > limit
        max_unfinished = get_capacity().queue * limit
        chunks: list[bytes] = []
        received = kept = 0
        try:
            async for chunk in request.stream():
                received += len(chunk)
                too_large = too_large or received > limit
                if not too_large:
                    chunks.append(chunk)
                    kept += len(chunk)
                    PredictRequest._unfinished_bytes += len(chunk)
                    if PredictRequest._unfinished_bytes > max_unfinished:
                        return HttpError.OVERLOADED.response()
                # A client that is cut off while it sends sees a reset connection, not the response.
                elif received > 2 * limit:
                    break
        finally:
            PredictRequest._unfinished_bytes -= kept
        if too_large:
            return HttpError.TOO_LARGE.response(f"the body is over the limit of {limit:,} bytes")
        return b"".join(chunks)

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


def json_response(body: bytes) -> Response:
    """Return a response with a JSON document."""
    return Response(body, media_type="application/json")
