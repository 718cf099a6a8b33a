"""Strict in-memory parser of `multipart/form-data` (RFC 7578).

Only the values of headers are parsed by `python-multipart`. Its parser of whole bodies is
incremental, which makes the parsing of a request four times slower.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from dimml.errors import InputError

MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
"""Limit on the headers of one part together."""

MAX_PREAMBLE_BYTES = 4096
"""Limit on the text before the first boundary, which is ignored (RFC 2046, 5.1.1)."""

_IDENTITY_ENCODINGS = ("", "7bit", "8bit", "binary")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a body.

    Attributes:
        name: Name of the form field.
        filename: None if the part declares no file name. Browsers send "" for an empty file input.
        content_type: Media type in lower case without parameters, "" if the part declares none.
        charset: Charset of the content in lower case, "" if the part declares none.
        content: Content of the part.
    """

    name: str
    filename: str | None
    content_type: str
    charset: str
    content: bytes

    @property
    def is_file(self) -> bool:
        """Whether the part has a file name or a media type other than text."""
        is_plain = not self.content_type or self.content_type.startswith("text/")
        return self.filename is not None or not is_plain

    @property
    def is_absent(self) -> bool:
        """Whether the part has neither a file name nor content."""
        return not self.filename and not self.content


def read_parts(content_type: str, body: bytes, max_parts: int, max_part_bytes: int) -> list[Part]:
    """Return the parts of a body in order.

    Args:
        content_type: The `Content-Type` header of the request, which holds the boundary.
        body: The whole body.
        max_parts: Maximum number of parts.
        max_part_bytes: Maximum size of the content of one part.

    Raises:
        InputError: `too_large` if the content of a part is over the limit; `invalid_request` if
            the header has no boundary, or if the body is malformed, is truncated or has too many
            parts.
    """
    boundary = _boundary(content_type)
    if not boundary:
        raise _invalid("Content-Type: the boundary is missing; let the HTTP client set this header")
    dash_boundary = b"--" + boundary
    parts: list[Part] = []
    position = _first_boundary_end(body, dash_boundary)
    while not body.startswith(b"--", position):
        if len(parts) == max_parts:
            raise _invalid(f"the multipart body has more than {max_parts} parts")
        part, position = _read_part(body, position, b"\r\n" + dash_boundary, max_part_bytes)
        parts.append(part)
    return parts


def _first_boundary_end(body: bytes, dash_boundary: bytes) -> int:
    """Return the end of the first boundary, after a preamble that may be empty."""
    if body.startswith(dash_boundary):
        return len(dash_boundary)
    delimiter = b"\r\n" + dash_boundary
    position = body.find(delimiter, 0, MAX_PREAMBLE_BYTES + len(delimiter))
    if position < 0:
        raise _invalid(
            "the multipart body is malformed: it does not start with its boundary, after at most "
            f"{MAX_PREAMBLE_BYTES:,} bytes of other text"
        )
    return position + len(delimiter)


def _read_part(body: bytes, position: int, delimiter: bytes, max_bytes: int) -> tuple[Part, int]:
    """Return the part after the delimiter that ends at `position`, and the next delimiter's end."""
    if not body.startswith(b"\r\n", position):
        raise _malformed(body, position, "a boundary is not followed by a line break")
    header_end = body.find(b"\r\n\r\n", position, position + MAX_HEADER_BYTES)
    if header_end < 0:
        problem = f"the headers of a part do not end within {MAX_HEADER_BYTES:,} bytes"
        raise _malformed(body, position + MAX_HEADER_BYTES, problem)
    headers = _parse_headers(body[position + 2 : header_end])
    content_start = header_end + 4
    content_end = _find_delimiter(body, content_start, delimiter)
    if content_end - content_start > max_bytes:
        message = f"over the limit of {max_bytes:,} bytes"
        raise InputError("too_large", message, headers[0][:64])
    part = Part(*headers, body[content_start:content_end])
    return part, content_end + len(delimiter)


def _find_delimiter(body: bytes, start: int, delimiter: bytes) -> int:
    while (position := body.find(delimiter, start)) >= 0:
        # Content may contain the delimiter as the beginning of a longer line.
        if body.startswith((b"\r\n", b"--"), position + len(delimiter)):
            return position
        start = position + 2
    raise _truncated()


def _malformed(body: bytes, position: int, problem: str) -> InputError:
    """Return the error for a problem at `position`, or for truncation if the body ends there."""
    if position + 2 > len(body):
        return _truncated()
    return _invalid(f"the multipart body is malformed: {problem}")


def _truncated() -> InputError:
    return _invalid("the multipart body is truncated: its closing boundary is missing")


# Clients repeat a few headers, so these two caches halve the time to parse a body.
@functools.lru_cache(maxsize=256)
def _boundary(content_type: str) -> bytes | None:
    return parse_options_header(content_type)[1].get(b"boundary")


@functools.lru_cache(maxsize=256)
def _parse_headers(block: bytes) -> tuple[str, str | None, str, str]:
    """Return the field name, the file name, the media type and the charset of a part."""
    lines = block.split(b"\r\n")
    if len(lines) > MAX_HEADERS:
        raise _invalid(f"a part has more than {MAX_HEADERS} headers")
    headers: dict[str, bytes] = {}
    for line in lines:
        key, colon, value = line.partition(b":")
        if not _TOKEN.fullmatch(key) or not colon:
            raise _invalid("the multipart body is malformed: a header of a part has no valid name")
        headers[_decode(key).lower()] = value.strip()
    disposition, options = _parse_options(headers.get("content-disposition"))
    name = options.get("name")
    if disposition != "form-data" or not name:
        raise _invalid('a part has no `Content-Disposition: form-data; name="..."` header')
    encoding = _decode(headers.get("content-transfer-encoding", b"binary")).strip().lower()
    if encoding not in _IDENTITY_ENCODINGS:
        raise _invalid(f"transfer encoding {encoding[:64]!r} is not accepted; use binary", name)
    content_type, parameters = _parse_options(headers.get("content-type"))
    charset = parameters.get("charset", "").lower()
    return name, options.get("filename"), content_type, charset


def _parse_options(header: bytes | None) -> tuple[str, dict[str, str]]:
    value, options = parse_options_header(header)
    return _decode(value), {_decode(key): _decode(option) for key, option in options.items()}


def _decode(value: bytes) -> str:
    # Modality names are UTF-8, so a name with replacement characters only appears in an error.
    return value.decode("utf-8", "replace")


def _invalid(message: str, field: str | None = None) -> InputError:
    return InputError("invalid_request", message, field)
