"""Cross-origin requests: which pages in browsers may read the answers of the service."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from serving.http.admission import RawHeaders
from serving.http.errors import HttpError

EXPOSED_HEADERS = ("X-Request-Id", "Retry-After")


class Cors(CORSMiddleware):
    """Starlette's middleware, also for the responses that the protocol writes itself.

    It is outside `ServiceMiddleware`, because a browser sends no API key with a preflight request.

    Args:
        app: The application to wrap.
        origins: Accepted origins, or `*` for all.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request; a refusal has the form of all errors."""
        response = super().preflight_response(request_headers)
        if response.status_code == HttpError.BAD_REQUEST.status:
            reason = bytes(response.body).decode()
            message = f"{reason}; DIMML_CORS_ORIGINS names the accepted origins, for GET and POST"
            return HttpError.BAD_REQUEST.response(message, headers={"vary": "Origin"})
        return response

    def header_lines(self, request_headers: RawHeaders) -> list[bytes]:
        """Return the header lines of a response that no application sends."""
        origin = dict(request_headers).get(b"origin", b"")
        headers = {"vary": "Origin"}
        if origin:
            headers |= self.simple_headers
            if not self.allow_all_origins and self.is_allowed_origin(origin.decode("latin-1")):
                headers["access-control-allow-origin"] = origin.decode("latin-1")
        return [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
