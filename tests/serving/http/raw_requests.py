"""Requests as bytes on a plain connection, for input that no HTTP client would send."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

MULTIPART = b"multipart/form-data; boundary=x"
FORM = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nseven\r\n--x--\r\n'
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
POST_HEAD = (
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
)
CHUNKED_HEADER = b"Transfer-Encoding: chunked\r\n"
MEBIBYTE = 2**20


def post_with_length(length: object, body: bytes = FORM) -> bytes:
    """Return a request whose Content-Length need not fit its body."""
    return POST_HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body


def post_with_chunks(chunks: bytes, headers: bytes = CHUNKED_HEADER) -> bytes:
    return POST_HEAD + headers + b"\r\n" + chunks


def encode_chunk(content: bytes = FORM) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def connect(server: Any) -> socket.socket:
    address = ("127.0.0.1", server.client.base_url.port)
    return socket.create_connection(address, timeout=20)


def parse_responses(received: bytes) -> list[tuple[int, str | None]]:
    """Return the status and the error code of each response in the bytes of a connection."""
    responses = []
    for response in re.split(rb"HTTP/1\.1 (?=\d{3} )", received)[1:]:
        head, _, body = response.partition(b"\r\n\r\n")
        code = json.loads(body)["error"]["code"] if b'"error"' in body else None
        responses.append((int(head[:3]), code))
    return responses
