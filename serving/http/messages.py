"""The messages of `POST /predict`: its request as BentoML hands it on, and its answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import bentoml
import pydantic
from starlette.requests import ClientDisconnect, Request

from dimml.errors import InputError
from serving.capacity import get_capacity
from serving.http.errors import Code
from serving.http.parsing import RawRequest
from serving.settings import get_settings

RECORD = "dimml"
"""The key of a request's log record in its ASGI scope."""

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


class PredictAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """The prediction: `dimml.Prediction.to_dict()`."""

    label: str
    confidence: float
    probabilities: dict[str, float]
    prediction_set: list[str]
    modalities: dict[str, ModalityAnswer]
    bundle: str


class Problem(pydantic.BaseModel):
    """What was wrong, what is accepted, and the field concerned."""

    code: Code
    message: str
    field: str | None


class ErrorAnswer(pydantic.BaseModel):
    """The body of every answer that is not a success."""

    error: Problem


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


class PredictRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """Reads a request in place of BentoML's parser.

    BentoML's parser answers 500 to malformed input, fetches URLs that stand in place of files, and
    has no limits. The body is parsed later, in the batch (`serving.http.parsing`).
    """

    # BentoML passes the result of `from_http_request` on as the single positional argument.
    __root_input__: ClassVar[bool] = True

    @classmethod
    async def from_http_request(
        cls, request: Request, serde: object
    ) -> Submission | InputError | None:
        """Read the body of a request.

        Returns:
            The request, what is wrong with it, or None if too many bodies are being read.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            return InputError("unsupported_type", "Content-Encoding is not accepted; send as is")
        limit = get_settings().max_body_bytes
        try:
            body = await _read_body(request, limit)
        except _TooManyBodiesError:
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


class _TooManyBodiesError(Exception):
    """The bodies that are being read would take more memory than they may together."""


@dataclass
class _BodiesInProgress:
    """The bytes of all bodies that this process is reading."""

    bytes: int = 0


_IN_PROGRESS = _BodiesInProgress()


async def _read_body(request: Request, limit: int) -> bytes | None:
    """Return the body, or None if it is over the limit; a declared length is not trusted."""
    declared = request.headers.get("content-length", "0")
    too_large = declared.isdecimal() and int(declared) > limit
    max_in_progress = get_capacity().queue * limit
    chunks: list[bytes] = []
    received = kept = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            too_large = too_large or received > limit
            if not too_large:
                chunks.append(chunk)
                kept += len(chunk)
                _IN_PROGRESS.bytes += len(chunk)
                if _IN_PROGRESS.bytes > max_in_progress:
                    raise _TooManyBodiesError
            elif received > 2 * limit:
                break
    finally:
        _IN_PROGRESS.bytes -= kept
    # Up to twice the limit is read and dropped: a client that is cut off while it sends sees a
    # reset connection instead of the answer.
    return None if too_large else b"".join(chunks)
