"""Request bodies, and helpers that parse them as the service does."""

from __future__ import annotations

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
MULTIPART = "multipart/form-data; boundary=xyz"


def encode_part(disposition: str, content: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: {disposition}", *headers, "", ""]
    return b"--xyz\r\n" + "\r\n".join(lines).encode() + content + b"\r\n"


def encode_field(name: str, content: bytes, *headers: str) -> bytes:
    return encode_part(f'form-data; name="{name}"', content, *headers)


def encode_file(name: str, filename: str, content: bytes, *headers: str) -> bytes:
    return encode_part(f'form-data; name="{name}"; filename="{filename}"', content, *headers)


def encode_form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def parse_form(*parts: bytes) -> dict[str, object]:
    return dict(parse_body(MULTIPART, encode_form(*parts), FIELDS))


def parse_json(document: object) -> dict[str, object]:
    return dict(parse_body(JSON, json.dumps(document).encode(), FIELDS))


def parse_error(content_type: str, body: bytes) -> InputError:
    """Return the error that parsing an invalid body raises."""
    with pytest.raises(InputError) as error:
        parse_body(content_type, body, FIELDS)
    return error.value
