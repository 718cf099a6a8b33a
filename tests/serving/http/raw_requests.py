"""Requests as bytes, sent over a plain connection."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

PART = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\nseven\r\n--x--\r\n'
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
MEBIBYTE = 2**20


def sized(length: object, body: bytes = PART) -> bytes:
    return POST + f"Content-Length: {length}\r\n\r\n".encode() + body


def chunk(content: bytes = PART) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def chunked(chunks: bytes, headers: bytes = CHUNKED) -> bytes:
    return POST + headers + b"\r\n" + chunks


def connect(server: Any) -> socket.socket:
    address = ("127.0.0.1", server.client.base_url.port)
    connection = socket.create_connection(address, timeout=20)
    return connection


def answers_of(received: bytes) -> list[tuple[int, str | None]]:
    """Status and code of each answer in what came over a connection."""
    answers = []
    for answer in re.split(rb"HTTP/1\.1 (?=\d{3} )", received)[1:]:
        head, _, body = answer.partition(b"\r\n\r\n")
        code = json.loads(body)["error"]["code"] if b'"error"' in body else None
        answers.append((int(head[:3]), code))
    return answers
