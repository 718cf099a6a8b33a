"""Every error that the service answers: its status, its code and its text.

The limits themselves are checked where the data is read: the head of a request in `protocol.py`,
its body in `messages.py`, its parts in `multipart.py`, and pixels, seconds and characters in
`dimml.modalities`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.responses import Response

from dimml.errors import InputError

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

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """A status of an error.

    Attributes:
        code: The code, where the error does not bring a more specific one.
        text: The message, where the error does not bring its own; braces hold details.
        prediction: What the status means for `POST /predict`, for the OpenAPI document; None if
            `/predict` never answers it.
    """

    code: Code
    text: str
    prediction: str | None = None


STATUSES: dict[int, ErrorStatus] = {
    400: ErrorStatus(
        "invalid_request",
        "the request was refused",
        "No modality, or one that cannot be read",
    ),
    401: ErrorStatus(
        "unauthorized",
        "an API key is needed: send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
        "No API key, or one that is not accepted",
    ),
    404: ErrorStatus("not_found", "there is nothing at {path}; /openapi.json lists what there is"),
    405: ErrorStatus(
        "invalid_request", "{path} does not answer {method}; the Allow header says what it does"
    ),
    408: ErrorStatus("timeout", "the headers did not end within {limit:g} s"),
    413: ErrorStatus(
        "too_large",
        "the request is too large",
        "The body, an image, a recording or a text is over its limit",
    ),
    415: ErrorStatus(
        "unsupported_type",
        "the Content-Type is not accepted",
        "A file or body of another type than is accepted",
    ),
    422: ErrorStatus("invalid_request", "the request was refused", "A request of the wrong shape"),
    429: ErrorStatus(
        "overloaded",
        "too many requests at once; try again shortly",
        "Over the rate limit of a key; Retry-After says when to come back",
    ),
    431: ErrorStatus("too_large", "the URL and headers are over the limit of {limit:,} bytes"),
    500: ErrorStatus("internal", "the service failed; its log says why", "The service failed"),
    503: ErrorStatus(
        "overloaded",
        "the service is not able to answer now; try again shortly",
        "As many requests as may wait do; Retry-After says when to come back",
    ),
    504: ErrorStatus("timeout", "no answer within {limit:g} s", "No answer in time"),
}

STATUS_OF_CODE: dict[str, int] = {
    "no_modality": 400,
    "unreadable": 400,
    "unknown_field": 422,
    "invalid_request": 422,
    "unsupported_type": 415,
    "too_large": 413,
}
"""The status of each `InputError`."""

# Texts of statuses that have several.
NOT_HTTP = "not a valid HTTP/1.1 request"
UPGRADE_WITH_BODY = "this service speaks HTTP/1.1; send the body without an Upgrade header"
KEY_NOT_ACCEPTED = "this API key is not accepted"
ONLY_LOCAL_CLIENTS = (
    "without API keys, only clients on the service's own machine are answered; its operator sets "
    "DIMML_API_KEYS, or DIMML_ALLOW_ANONYMOUS=1"
)
QUEUE_FULL = "as many requests as may wait are waiting; try again shortly"
RATE_EXCEEDED = "over {rate:g} requests per second; wait {seconds:.1f} s"


def error_body(code: str, message: str, field: str | None = None) -> bytes:
    """Return the body of an error, see `serving.http.messages.ErrorAnswer`."""
    return orjson.dumps({"error": {"code": code, "message": message, "field": field}})


def status_body(status: int, text: str | None = None, **details: Any) -> bytes:
    """Return the body of an error by its status.

    Args:
        status: An unknown status has the text of 400 or 500.
        text: Replaces the text of the status.
        details: Values for the braces of the text.
    """
    error = STATUSES.get(status) or STATUSES[400 if status < 500 else 500]
    return error_body(error.code, (text or error.text).format(**details))


def input_error_response(error: InputError) -> Response:
    """Return the response to a request that cannot be predicted."""
    body = error_body(error.code, error.message, error.field)
    return Response(body, STATUS_OF_CODE[error.code], media_type="application/json")


def queue_full_response() -> Response:
    """Return the response to a request for which the queue has no room."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Response(status_body(503, QUEUE_FULL), 503, headers, "application/json")
