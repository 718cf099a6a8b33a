"""The events of the page, checked before Gradio sees them.

Gradio answers 500 to an event of another form, and fetches a file whose path is a URL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import orjson

from dimml.errors import InputError

MAX_NAME_CHARACTERS = 100


def clean_event(body: bytes, page: gr.Blocks, uploads: Path) -> bytes:
    """Return an event with only what Gradio needs of it.

    Args:
        body: The event as a browser sends it.
        page: The page, which knows its events and their inputs.
        uploads: The folder of uploaded files; an event may name no other file.

    Raises:
        InputError: If the page never sends such an event, or a file is not there.
    """
    try:
        event = orjson.loads(body)
        number, data, session = event["fn_index"], event["data"], event.get("session_hash")
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        _reject()
    function = page.fns.get(number) if type(number) is int else None
    if function is None or function.fn is None or not isinstance(data, list):
        _reject()
    if len(data) != len(function.inputs):
        _reject()
    pairs = zip(data, function.inputs, strict=True)
    cleaned = [_clean_value(value, block, uploads) for value, block in pairs]
    session = session if isinstance(session, str) and len(session) < 100 else None
    return orjson.dumps({"data": cleaned, "fn_index": number, "session_hash": session})


def _clean_value(value: Any, block: Any, uploads: Path) -> Any:
    match block.get_block_name(), value:
        case "checkbox", bool():
            return value
        case "textbox", None | str():
            return value
        case "html", None:
            return value
        case "html", str() if value.startswith("data:image/png;base64,"):
            return value
        case "dataset", int() if type(value) is int and 0 <= value < len(block.samples):
            return value
        case (("audio" | "image" | "file"), None):
            return value
        case (("audio" | "image" | "file"), {"path": str(path)}):
            return _clean_file(path, value.get("orig_name"), uploads)
        case "file", [*files] if all(isinstance(f, dict) for f in files):
            return [_clean_file(f.get("path"), f.get("orig_name"), uploads) for f in files]
    _reject()


def _clean_file(path: Any, name: Any, uploads: Path) -> dict[str, Any]:
    try:
        is_there = Path(path).resolve().is_relative_to(uploads) and Path(path).is_file()
    except (TypeError, ValueError, OSError):
        is_there = False
    if not is_there:
        text = "a file is not on the server, or not any more: choose it again"
        raise InputError("invalid_request", text)
    # The end of a name has its suffix.
    name = name[-MAX_NAME_CHARACTERS:] if isinstance(name, str) else None
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def _reject() -> NoReturn:
    raise InputError("invalid_request", "this is no event of the page; programs call /predict")
