"""`multipart/form-data` (RFC 7578), parsed in memory, strictly.

The headers' values are read by `python-multipart`; with its parser of whole bodies, which takes
them in pieces, a request's parsing takes four times as long.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from dimml.errors import InputError

MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
"""Of all headers of one part."""

_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the body.

    Attributes:
        name: of the form field.
        filename: None where the part declares none; an empty file input of a browser sends "".
        content_type: lower case, without parameters; "" where the part declares none.
        content: the bytes.
    """

    name: str
    filename: str | None
    content_type: str
    content: bytes

    @property
    def is_file(self) -> bool:
        """Whether a file was sent: it has a file name, or a type that is not text."""
        plain = not self.content_type or self.content_type.startswith("text/")
        return self.filename is not None or not plain

    @property
    def is_absent(self) -> bool:
        """Whether nothing was sent: neither a file name nor bytes."""
        return not self.filename and not self.content


def read_parts(content_type: str, body: bytes, most: int, most_bytes: int) -> list[Part]:
    """The parts of a body, in order.

    Args:
        content_type: the request's header, which holds the boundary.
        body: the whole body.
        most: how many parts are accepted.
        most_bytes: of one part.

    Raises:
        InputError: `too_large`: a part is over its limit; `invalid_request`: there is no boundary,
            or the body is malformed, truncated or has too many parts.
    """
    boundary = _boundary(content_type)
    if not boundary:
        raise _invalid("the Content-Type has no boundary; let the HTTP client set this header")
    dash_boundary = b"--" + boundary
    start = 2 if body.startswith(b"\r\n") else 0
    if not body.startswith(dash_boundary, start):
        raise _invalid("the multipart body is malformed: it does not begin with its boundary")
    parts: list[Part] = []
    position = start + len(dash_boundary)
    while not body.startswith(b"--", position):
        if len(parts) == most:
            raise _invalid(f"the multipart body has more than {most} parts")
        part, position = _read_part(body, position, b"\r\n" + dash_boundary, most_bytes)
        parts.append(part)
    return parts


def _read_part(body: bytes, position: int, delimiter: bytes, most_bytes: int) -> tuple[Part, int]:
    """The part whose delimiter ends at `position`, and where the next delimiter ends."""
    if not body.startswith(b"\r\n", position):
        raise _malformed(body, position, "a boundary is not followed by a new line")
    head_end = body.find(b"\r\n\r\n", position, position + MAX_HEADER_BYTES)
    if head_end < 0:
        problem = f"the headers of a part do not end within {MAX_HEADER_BYTES:,} bytes"
        raise _malformed(body, position + MAX_HEADER_BYTES, problem)
    name, filename, content_type = _head(body[position + 2 : head_end])
    content_start = head_end + 4
    content_end = _find_delimiter(body, content_start, delimiter)
    if content_end - content_start > most_bytes:
        message = f"over the limit of {most_bytes:,} bytes"
        raise InputError("too_large", message, name[:64])
    part = Part(name, filename, content_type, body[content_start:content_end])
    return part, content_end + len(delimiter)


def _find_delimiter(body: bytes, start: int, delimiter: bytes) -> int:
    while (found := body.find(delimiter, start)) >= 0:
        # Else it is content that begins like the boundary.
        if body.startswith((b"\r\n", b"--"), found + len(delimiter)):
            return found
        start = found + 2
    raise _truncated()


def _malformed(body: bytes, position: int, problem: str) -> InputError:
    if position + 2 > len(body):
        return _truncated()
    return _invalid(f"the multipart body is malformed: {problem}")


def _truncated() -> InputError:
    return _invalid("the multipart body is truncated: its closing boundary is missing")


# Clients send few different headers; a cache of these halves the time.
@functools.lru_cache(maxsize=256)
def _boundary(content_type: str) -> bytes | None:
    return parse_options_header(content_type)[1].get(b"boundary")


@functools.lru_cache(maxsize=256)
def _head(head: bytes) -> tuple[str, str | None, str]:
    """Name, file name and content type that the header lines of a part declare."""
    lines = head.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise _invalid(f"a part has more than {MAX_HEADERS} headers")
    headers: dict[str, bytes] = {}
    for line in lines:
        key, colon, value = line.partition(b":")
        if not _TOKEN.fullmatch(key) or not colon:
            raise _invalid("the multipart body is malformed: a header of a part has no name")
        headers[_text(key).lower()] = value.strip()
    disposition, options = _options(headers.get("content-disposition"))
    name = options.get("name")
    if disposition != "form-data" or not name:
        raise _invalid('a part has no `Content-Disposition: form-data; name="..."` header')
    encoding = _text(headers.get("content-transfer-encoding", b"binary")).strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise _invalid(f"the part is {encoding[:64]}-encoded; send its bytes as they are", name)
    content_type, _ = _options(headers.get("content-type"))
    return name, options.get("filename"), content_type


def _options(header: bytes | None) -> tuple[str, dict[str, str]]:
    value, options = parse_options_header(header)
    return _text(value), {_text(key): _text(option) for key, option in options.items()}


def _text(value: bytes) -> str:
    # A name that is not UTF-8 cannot be a modality's: it only has to survive in a message.
    return value.decode("utf-8", "replace")


def _invalid(message: str, field: str | None = None) -> InputError:
    return InputError("invalid_request", message, field)
