"""The page as an ASGI application that calls the API of its own process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dimml.bundle import Bundle
from serving.http.errors import HttpError
from serving.page.layout import Value, build_page
from serving.settings import Settings

# The page needs only these of Gradio's routes. Others read files of the server, call other
# services or describe the page to programs, which have the API.
_ROUTES = {
    "GET": re.compile(
        r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static)/.+)"
        r"|/gradio_api/(startup-events|app_id|theme\.css|upload_progress|heartbeat/\w+|file=/.+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|run/\w+)/?"),
}
_ROUTES["HEAD"] = _ROUTES["GET"]
_STREAMS = ("/gradio_api/heartbeat/", "/gradio_api/upload_progress")
"""Answers that last as long as their client wants."""

# Gradio's page names other hosts for its fonts and its preview in social networks.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-ancestors 'self'"
)
_FORWARDED_HEADERS = ("authorization", "x-api-key")


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
        self._uploads = Path(gr.utils.get_upload_folder()).resolve()
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
        is_stream = scope["path"].startswith(_STREAMS)
        if scope["method"] == "POST" and "/run/" in scope["path"]:
            body = await _read_body(receive, self._settings.max_body_bytes)
            if problem := self._event_problem(body):
                await HttpError.INVALID_REQUEST.response(problem)(scope, receive, send)
                return
            receive = _replay(body)
        async with asyncio.timeout(None if is_stream else self._settings.timeout):
            await self._app(scope, receive, _with_policy(send))

    async def close(self) -> None:
        """Stop what runs beside the requests."""
        await self._running.aclose()

    async def _ensure_running(self) -> None:
        async with self._start:
            if not self._is_running:
                await self._running.enter_async_context(
                    self._app.router.lifespan_context(self._app)
                )
                self._is_running = True

    def _event_problem(self, body: bytes) -> str | None:
        """Return why an event is not one that the page sends, None if it is.

        Gradio answers 500 to such events, and fetches a file whose path is a URL.
        """
        try:
            event = orjson.loads(body)
            function = self._page.fns[event["fn_index"]]
            is_complete = len(event["data"]) == len(function.inputs)
        except (orjson.JSONDecodeError, LookupError, TypeError):
            is_complete = False
        if not is_complete:
            return "this is no event of the page; programs call /predict"
        if all(_is_inside(path, self._uploads) for path in _paths(event["data"])):
            return None
        return "a file is not on the server, or not any more: choose it again"

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


def _paths(value: Any) -> Iterator[Any]:
    """Yield the paths of all files in the data of an event."""
    if isinstance(value, dict):
        if "path" in value:
            yield value["path"]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _paths(item)


def _is_inside(path: Any, folder: Path) -> bool:
    try:
        return Path(path).resolve().is_relative_to(folder) and Path(path).is_file()
    except (TypeError, ValueError, OSError):
        return False


async def _read_body(receive: Receive, limit: int) -> bytes:
    """Return the body of a request, or nothing if it is over the limit or incomplete."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit or message["type"] != "http.request":
            return b""
    return bytes(body)


def _replay(body: bytes) -> Receive:
    """Return a `receive` that has a body which was read before."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, {"type": "http.disconnect"})

    return receive


def _with_policy(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return sender
