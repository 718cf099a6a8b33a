"""The messages of `POST /predict`: its request as BentoML hands it on, and its answers."""

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
"""The key of a request's log record in its ASGI scope."""

IS_GONE = "dimml.is_gone"
"""The key in its ASGI scope of a function that returns whether the client has disconnected.

In ASGI itself, a disconnect is only seen after the whole body."""

REQUEST_SCHEMA: dict[str, Any] = {
    "title": "PredictRequest",
    "type": "object",
    "description": "Any non-empty subset of the bundle's modalities; `/bundle` names them.",
    "additionalProperties": True,
}


class ModalityAnswer(pydantic.BaseModel):
    """The answer of one modality; an absent modality has weight 0 and no label."""

    present: bool
    label: str | None
    confidence: float | None
    weight: float
    warnings: list[str]


class FeaturesAnswer(pydantic.BaseModel):
    """The numbers that the shared classifier reads, for each modality; null if it is absent."""

    version: int
    values: dict[str, list[float] | None]


class ReducedAnswer(pydantic.BaseModel):
    """The answer of all other present modalities."""

    label: str
    confidence: float
    prediction_set: list[str]


class PredictAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """The prediction: `dimml.Prediction.to_dict()`, with `features` and `without` on request."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    prediction_set: list[str]
    modalities: dict[str, ModalityAnswer]
    interaction: float
    bundle: str
    features: FeaturesAnswer | None = None
    without: dict[str, ReducedAnswer] | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A request whose body has been read.

    Attributes:
        request: The request to compute.
        record: The record of the request for the log.
        is_gone: Returns whether the client has disconnected.
    """

    request: RawRequest
    record: dict[str, Any]
    is_gone: Callable[[], Awaitable[bool]]


def content_encoding_error(request: Request) -> Response | None:
    """Return the refusal of a compressed body, None for any other."""
    if request.headers.get("content-encoding", "identity") == "identity":
        return None
    return HttpError.UNSUPPORTED_TYPE.response(
        "Content-Encoding is not accepted; send the body without it"
    )


class PredictRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """Reads a request in place of BentoML's parser.

    BentoML's parser answers 500 to malformed input, fetches URLs that stand in place of files, and
    has no limits. The body is parsed later, in the batch (`serving.http.parsing`).
    """

    # BentoML passes the result of `from_http_request` on as the single positional argument.
    __root_input__: ClassVar[bool] = True

    _unfinished_bytes: ClassVar[int] = 0
    """Bytes of the bodies that this process is reading."""

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Submission | Response:
        """Return the request, or the response that refuses it before its content is parsed."""
        if refusal := content_encoding_error(request):
            return refusal
        try:
            body = await cls.read_body(request, get_settings().max_body_bytes)
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
    async def read_body(cls, request: Request, limit: int) -> bytes | Response:
        """Return the body, or the response that refuses it; a declared length is not trusted.

        Raises:
            ClientDisconnect: If the connection closes before the end of the body.
        """
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
        """Return the content type that BentoML's own documentation shows."""
        return "multipart/form-data"

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a schema for any bundle; `/openapi.json` has the modalities of the one served."""
        return dict(REQUEST_SCHEMA)

    @classmethod
    def openapi_components(cls, name: str) -> dict[str, Any]:
        """Return no components, because the schema refers to none."""
        return {}
