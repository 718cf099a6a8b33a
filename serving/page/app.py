"""The page as an ASGI application that calls the API of its own process."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import orjson
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dimml.bundle import Bundle
from dimml.errors import InputError
from serving.http.errors import MIN_ERROR_STATUS, HttpError, find_error, input_error_response
from serving.http.messages import PredictRequest
from serving.page.events import clean_event
from serving.page.layout import Value, build_page
from serving.page.uploads import find_files, keep_deleting
from serving.settings import Settings

# The page needs only these of Gradio's routes. Others read files of the server, call other
# services, describe the page to programs, which have the API, or keep a connection open.
_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static)/.+)"
        r"|/gradio_api/(startup-events|app_id|theme\.css|file=/.+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|run/\w+)/?"),
}
_ROUTES["HEAD"] = _ROUTES["GET"]

# Gradio's page names other hosts for its fonts and its preview in social networks.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'self'"
)
_FORWARDED_HEADERS = ("authorization", "x-api-key")

logger = logging.getLogger("bentoml.dimml")


class PageApp:
    """Answers the requests of the page.

    The page predicts by a request to `POST /predict` that never leaves the process, so keys,
    limits, errors, metrics and the log are those of the API.

    Args:
        bundle: The bundle.
        description: The answer of `GET /bundle`.
        settings: The limits.
        api: The application that answers `POST /predict`.
    """

    def __init__(
        self, bundle: Bundle, description: Mapping[str, Any], settings: Settings, api: ASGIApp
    ) -> None:
        self._api = api
        self._settings = settings
        self._running = AsyncExitStack()
        self._start = asyncio.Lock()
        self._is_running = False
        self._page = build_page(bundle, description, self._predict)
        # Browsers load the page again where it differs between the workers.
        self._page.app_id = int(bundle.id.rpartition("@")[2], 16)
        self._uploads = Path(gr.utils.get_upload_folder()).resolve()
        self._examples = find_files(self._uploads, bundle.manifest.files)
        self._app = gr.mount_gradio_app(
            FastAPI(openapi_url=None),
            self._page,
            path="",
            footer_links=[],
            run_history=False,
            max_file_size=settings.max_part_bytes,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css_paths=Path(__file__).parent / "page.css",
        )

    @staticmethod
    def serves(method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether a request is one of the page. At `/`, other clients get JSON."""
        if path == "/" and b"text/html" not in headers.get(b"accept", b""):
            return False
        routes = _ROUTES.get(method)
        return bool(routes and routes.fullmatch(path))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._ensure_running()
        try:
            async with asyncio.timeout(self._settings.timeout) as time_limit:
                refusal = await self._answer(scope, receive, send, time_limit)
        except TimeoutError:
            text = HttpError.TIMEOUT.message.format(timeout=self._settings.timeout)
            refusal = HttpError.TIMEOUT.response(text)
        except ClientDisconnect:
            return
        if refusal:
            await refusal(scope, receive, send)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, time_limit: asyncio.Timeout
    ) -> Response | None:
        """Let Gradio answer, or return the response that refuses the request."""
        if scope["method"] == "POST":
            if _is_foreign(dict(scope["headers"])):
                return HttpError.INVALID_REQUEST.response(
                    "a page of another origin cannot use this one; let it call /predict, and see "
                    "DIMML_CORS_ORIGINS"
                )
            # Gradio would write the beginning of a body that does not end.
            request, limit = Request(scope, receive), self._settings.max_body_bytes
            body = await PredictRequest.read_body(request, limit)
            if isinstance(body, Response):
                return body
            try:
                if "/run/" in scope["path"]:
                    body = clean_event(body, self._page, self._uploads)
            except InputError as error:
                return input_error_response(error)
            receive = _replay(body)
        # Gradio would allow every origin to read its answers.
        headers = [header for header in scope["headers"] if header[0] != b"origin"]
        sender = _PageSender(send, time_limit)
        try:
            await self._app({**scope, "headers": headers}, receive, sender.send)
        except OSError as error:
            logger.error("the page cannot store a file: %s", error)
            return HttpError.INTERNAL.response("the file cannot be stored; the log says why")
        except Exception:
            if sender.error_status is None or scope["method"] != "POST":
                raise
            return HttpError.INVALID_REQUEST.response("the upload is malformed")
        if sender.error_status is None:
            return None
        failure = find_error(sender.error_status)
        return failure.response(failure.message.format(path=scope["path"], method=scope["method"]))

    async def close(self) -> None:
        """Stop what runs beside the requests."""
        await self._running.aclose()

    async def _ensure_running(self) -> None:
        async with self._start:
            if not self._is_running:
                await self._running.enter_async_context(
                    self._app.router.lifespan_context(self._app)
                )
                task = asyncio.create_task(keep_deleting(self._uploads, self._examples))
                self._running.callback(task.cancel)
                self._is_running = True

    async def _predict(self, sample: Mapping[str, Value], request: gr.Request) -> dict[str, Any]:
        """Send a sample to `POST /predict` on behalf of a client of the page."""
        inner: Any = request.request
        headers = {n: inner.headers[n] for n in _FORWARDED_HEADERS if n in inner.headers}
        client = (inner.client.host, inner.client.port) if inner.client else ("127.0.0.1", 0)
        parts: list[tuple[str, Any]] = []
        for name, value in sample.items():
            # httpx sends a tuple without a file name as a plain form field.
            contents = [(None, value)] if isinstance(value, str) else value
            parts += [(name, content) for content in contents]
        transport = httpx.ASGITransport(self._api, client=client)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://page", timeout=None
        ) as http:
            # A form without parts has no body. An empty JSON object gets the error of a sample
            # without modalities.
            body: dict[str, Any] = {"files": parts} if parts else {"json": {}}
            response = await http.post("/predict?explain=1", headers=headers, **body)
        answer: dict[str, Any] = orjson.loads(response.content)
        return answer


def _is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a page of another origin sends a request.

    A browser names the origin for itself; only where it does not (over plain HTTP), `Origin` is
    compared with the host.
    """
    if site := headers.get(b"sec-fetch-site"):
        return site not in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    own = (headers.get(b"host"), headers.get(b"x-forwarded-host"))
    return origin is not None and origin.partition(b"://")[2] not in own


def _replay(body: bytes) -> Receive:
    """Return a `receive` that has a body which was read before."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


class _PageSender:
    """Sends a response of the page, but keeps an error back, whose body is not the API's.

    Attributes:
        error_status: The status of an error; None if the response was sent.
    """

    def __init__(self, send: Send, time_limit: asyncio.Timeout) -> None:
        self.error_status: int | None = None
        self._send = send
        self._time_limit = time_limit

    async def send(self, message: Message) -> None:
        """Take one message of Gradio's application."""
        if message["type"] == "http.response.start":
            if message["status"] >= MIN_ERROR_STATUS:
                self.error_status = message["status"]
                return
            # As for the API, the time limit ends with the first byte of the response.
            self._time_limit.reschedule(None)
            headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            message = {**message, "headers": headers}
        if self.error_status is None:
            await self._send(message)
