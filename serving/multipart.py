"""`multipart/form-data`, parsed in memory by the `python-multipart` library."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from dimml.errors import InputError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")

# The library warns of every malformed body, so clients could fill the log at will.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


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
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _invalid("the Content-Type has no boundary; let the HTTP client set this header")
    collector = _Collector(most, most_bytes)
    try:
        MultipartParser(boundary, collector.callbacks()).write(body)
    except FormParserError as error:
        raise _invalid(f"the multipart body is malformed: {error}") from error
    if not collector.ended:
        raise _invalid("the multipart body is truncated: its closing boundary is missing")
    return collector.parts


class _Collector:
    """Gathers what the parser calls back with."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._most = most
        self._most_bytes = most_bytes
        self._headers: dict[str, bytes] = {}
        self._header_name = self._header_value = b""
        self._content: list[bytes] = []
        self._bytes = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self.part_begin,
            "on_part_data": self.part_data,
            "on_part_end": self.part_end,
            "on_header_field": self.header_field,
            "on_header_value": self.header_value,
            "on_header_end": self.header_end,
            "on_end": self.end,
        }

    def part_begin(self) -> None:
        if len(self.parts) == self._most:
            raise _invalid(f"the multipart body has more than {self._most} parts")
        self._headers = {}
        self._content = []
        self._bytes = 0

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._bytes += end - start
        if self._bytes > self._most_bytes:
            name = _part(self._headers, b"").name
            message = f"over the limit of {self._most_bytes:,} bytes"
            raise InputError("too_large", message, name[:64])
        self._content.append(data[start:end])

    def part_end(self) -> None:
        self.parts.append(_part(self._headers, b"".join(self._content)))

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def header_end(self) -> None:
        self._headers[_text(self._header_name).lower()] = self._header_value
        self._header_name = self._header_value = b""

    def end(self) -> None:
        self.ended = True


def _part(headers: dict[str, bytes], content: bytes) -> Part:
    disposition, options = _options(headers.get("content-disposition"))
    name = options.get("name")
    if disposition != "form-data" or not name:
        raise _invalid('a part has no `Content-Disposition: form-data; name="..."` header')
    encoding = _text(headers.get("content-transfer-encoding", b"binary")).strip().lower()
    if encoding not in _PLAIN_ENCODINGS:
        raise _invalid(f"the part is {encoding}-encoded; send its bytes as they are", name)
    content_type, _ = _options(headers.get("content-type"))
    return Part(name, options.get("filename"), content_type, content)


def _options(header: bytes | None) -> tuple[str, dict[str, str]]:
    value, options = parse_options_header(header)
    return _text(value), {_text(key): _text(option) for key, option in options.items()}


def _text(value: bytes) -> str:
    # A name that is not UTF-8 cannot be a modality's: it only has to survive in a message.
    return value.decode("utf-8", "replace")


def _invalid(message: str, field: str | None = None) -> InputError:
    return InputError("invalid_request", message, field)
