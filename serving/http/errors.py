"""Every error response of the service: its status, its code and its text."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Literal

import orjson
import pydantic
from starlette.responses import Response

from dimml.errors import InputError, InputErrorCode

ErrorCode = Literal[
    InputErrorCode, "unauthorized", "not_found", "overloaded", "timeout", "internal"
]

_HEADERS: dict[ErrorCode, dict[str, str]] = {
    "unauthorized": {"www-authenticate": "Bearer"},
    "overloaded": {"retry-after": "1"},
}


class HttpError(Enum):
    """The table of errors. Where only a status is known, its first error stands for it.

    Attributes:
        status: HTTP status.
        code: `error.code` of the body.
        message: Default text, formatted with `path`, `method` and `timeout`.
    """

    # Refused by `protocol.py`, before the head of the request is complete.
    BAD_REQUEST = 400, "invalid_request", "the service does not accept this request"
    HEAD_TIMEOUT = 408, "timeout", "the headers did not end in time"
    HEAD_TOO_LARGE = 431, "too_large", "the URL and headers are over their limit"

    # Refused by `admission.py`, before the body is read.
    KEY_MISSING = (
        401,
        "unauthorized",
        "an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    )
    KEY_REJECTED = 401, "unauthorized", "this API key is not accepted"
    REMOTE_CLIENT = (
        401,
        "unauthorized",
        "without API keys, only clients on the service's own machine are answered; the operator "
        "sets DIMML_API_KEYS, or DIMML_ALLOW_ANONYMOUS=1",
    )
    RATE_LIMITED = 429, "overloaded", "too many requests; Retry-After says how long to wait"
    OVERLOADED = 503, "overloaded", "too many requests are waiting; try again shortly"

    # Refused by BentoML's router.
    NOT_FOUND = 404, "not_found", "there is nothing at {path}; /openapi.json lists all paths"
    METHOD_NOT_ALLOWED = (
        405,
        "invalid_request",
        "{path} does not accept {method}; the Allow header lists the methods that it accepts",
    )

    # Raised as `InputError`, whose codes are the names here, by the parsers and the modality kinds.
    NO_MODALITY = 400, "no_modality", "the request has no modality"
    UNREADABLE = 400, "unreadable", "a modality cannot be read"
    TOO_LARGE = 413, "too_large", "the body, a file or a text is over its limit"
    UNSUPPORTED_TYPE = 415, "unsupported_type", "the type of the body or file is not accepted"
    INVALID_REQUEST = 422, "invalid_request", "the request does not have the accepted form"
    UNKNOWN_FIELD = 422, "unknown_field", "a field or query parameter is unknown"

    # Answered by `middleware.py` in place of a handler.
    INTERNAL = 500, "internal", "the service failed; its log says why"
    TIMEOUT = 504, "timeout", "no response within {timeout:g} s"

    def __init__(self, status: int, code: ErrorCode, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message

    @property
    def status_line(self) -> bytes:
        """The first line of an HTTP/1.1 response."""
        return f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}".encode()

    def body(self, message: str | None = None, field: str | None = None) -> bytes:
        """Return the JSON body, see `ErrorAnswer`."""
        problem = {"code": self.code, "message": message or self.message, "field": field}
        return orjson.dumps({"error": problem})

    def response(
        self,
        message: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Return the response, with the headers that its code asks for."""
        merged = {**_HEADERS.get(self.code, {}), **(headers or {})}
        return Response(self.body(message, field), self.status, merged, "application/json")


MIN_ERROR_STATUS = HttpError.BAD_REQUEST.status
_BY_STATUS = {error.status: error for error in reversed(HttpError)}


class Problem(pydantic.BaseModel):
    """What was wrong, what is accepted, and the field it is about."""

    code: ErrorCode
    message: str
    field: str | None


class ErrorAnswer(pydantic.BaseModel):
    """The body of every error response."""

    error: Problem


def find_error(status: int) -> HttpError:
    """Return the error of a status; a status that is not in the table counts as 400 or 500."""
    server_failed = status >= HttpError.INTERNAL.status
    return _BY_STATUS.get(status, HttpError.INTERNAL if server_failed else HttpError.BAD_REQUEST)


def input_error_body(error: InputError) -> bytes:
    """Return the JSON body of the error of one sample."""
    return HttpError[error.code.upper()].body(error.message, error.field)


def input_error_response(error: InputError) -> Response:
    """Return the response to a request that cannot be predicted."""
    return HttpError[error.code.upper()].response(error.message, error.field)
