"""Bodies of requests, and what the parser makes of them."""

from __future__ import annotations

import base64
import json

import pytest

from dimml.errors import InputError
from serving.http.parsing import JSON, ModalityField, parse_body

FIELDS = {
    "audio": ModalityField(is_text=False),
    "image": ModalityField(is_text=False),
    "text": ModalityField(is_text=True),
    "clip": ModalityField(is_text=False, most=3),
}
BOUNDARY = "multipart/form-data; boundary=xyz"
FILE = 'form-data; name="{}"; filename="{}"'
FIELD = 'form-data; name="{}"'


def part(disposition: str, content: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers, "", ""]
    return b"--xyz\r\n" + "\r\n".join(lines).encode() + content + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def parse_parts(*parts: bytes) -> dict[str, object]:
    return dict(parse_body(BOUNDARY, multipart(*parts), FIELDS))


def parse_json(document: object) -> dict[str, object]:
    return dict(parse_body(JSON, json.dumps(document).encode(), FIELDS))


def refusal(content_type: str, body: bytes) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_body(content_type, body, FIELDS)
    return caught.value


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
