"""From the body of a request to a sample: strict, and without opening or fetching anything."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl

from dimml.errors import InputError
from dimml.samples import OnUnreadable
from serving.http.multipart import Part, read_parts

MULTIPART = "multipart/form-data"
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"
CONTENT_TYPES = (MULTIPART, JSON, URLENCODED)
MAX_PARTS = 16
MAX_PART_BYTES = 20_000_000

Value: TypeAlias = bytes | str | list[Any] | None


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request whose body has been read and not yet looked at.

    Attributes:
        content_type: the header, "" where there is none.
        query: the query string.
        body: the whole body.
    """

    content_type: str
    query: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ModalityField:
    """What one modality takes from a request.

    Attributes:
        is_text: whether it takes text rather than files.
        most: how many files it takes; more than one for a modality of several frames.
    """

    is_text: bool
    most: int = 1


Fields: TypeAlias = Mapping[str, ModalityField]


def parse_query(query: str) -> OnUnreadable:
    """What the query string says of unreadable modalities.

    Raises:
        InputError: an unknown parameter, or a value that is neither "error" nor "absent".
    """
    chosen: list[str] = []
    for name, value in _pairs(query):
        if name != "on_unreadable":
            _refuse_unknown(name, ["on_unreadable"], "query parameter")
        chosen.append(value)
    if not chosen or chosen == ["error"]:
        return "error"
    if chosen == ["absent"]:
        return "absent"
    raise _invalid("on_unreadable is given once, as error or absent", "on_unreadable")


def parse_body(
    content_type: str,
    body: bytes,
    fields: Fields,
    max_parts: int = MAX_PARTS,
    max_part_bytes: int = MAX_PART_BYTES,
) -> dict[str, Value]:
    """The sample that a request holds: modality name to bytes, text, list of bytes or None.

    Whatever a client sends, the value of a file modality is never a str, which `dimml` would take
    for a path.

    Args:
        content_type: the request's header, "" where it has none.
        body: the whole body.
        fields: what each modality takes.
        max_parts: of a form; the further files of modalities that take several do not count.
        max_part_bytes: of one part of a form.

    Raises:
        InputError: `unsupported_type`, `unknown_field`, `too_large` or `invalid_request`.
    """
    if not body:
        return {}
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == MULTIPART:
        most = max_parts + sum(field.most - 1 for field in fields.values())
        return _from_form(read_parts(content_type, body, most, max_part_bytes), fields)
    if media_type == JSON:
        return _parse_json(body, fields)
    if media_type == URLENCODED:
        return _parse_urlencoded(body, fields)
    sent = f"{printable(media_type)!r} is not accepted" if media_type else "there is none"
    raise InputError("unsupported_type", f"Content-Type: {sent}; send {', '.join(CONTENT_TYPES)}")


def printable(text: str) -> str:
    """A client's own text, short and encodable, for use in an answer."""
    return text[:64].encode("utf-8", "replace").decode()


def _from_form(sent: Iterable[Part], fields: Fields) -> dict[str, Value]:
    parts: dict[str, list[Part]] = {}
    for part in sent:
        if part.name not in fields:
            _refuse_unknown(part.name, fields)
        parts.setdefault(part.name, []).append(part)
    return {name: _from_parts(name, group, fields[name]) for name, group in parts.items()}


def _from_parts(name: str, parts: list[Part], field: ModalityField) -> Value:
    if len(parts) > field.most:
        raise _invalid(_too_many(field.most), name)
    values = [_from_part(part, field) for part in parts if not part.is_absent]
    if len(parts) == 1:
        return values[0] if values else None
    return values


def _from_part(part: Part, field: ModalityField) -> Value:
    if field.is_text:
        return _text_or_bytes(part.content)
    if part.is_file:
        return part.content
    if not part.content.strip():
        return None
    raise _invalid(
        f"expected a file, got a plain form field; send the file's bytes, "
        f"as `curl -F {part.name}=@FILE` does (URLs and paths are not followed)",
        part.name,
    )


def _text_or_bytes(content: bytes) -> Value:
    """Text, or bytes that are not UTF-8 or empty: `dimml` says what is wrong with those."""
    try:
        return content.decode() or content
    except UnicodeDecodeError:
        return content


def _parse_json(body: bytes, fields: Fields) -> dict[str, Value]:
    try:
        document = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise _invalid("the JSON is nested too deeply; send one object") from error
    except ValueError as error:
        raise _invalid(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise _invalid(f"expected a JSON object with any of {', '.join(fields)}")
    for name in document:
        if name not in fields:
            _refuse_unknown(name, fields)
    return {name: _from_json(name, value, fields[name]) for name, value in document.items()}


def _from_json(name: str, value: object, field: ModalityField) -> Value:
    if isinstance(value, list) and field.most > 1:
        if len(value) > field.most:
            raise _invalid(_too_many(field.most), name)
        return [_from_json_scalar(name, item, field) for item in value]
    return _from_json_scalar(name, value, field)


def _from_json_scalar(name: str, value: object, field: ModalityField) -> Value:
    if value is None:
        return None
    if not isinstance(value, str):
        expected = "text" if field.is_text else "the file's bytes, encoded as base64"
        raise _invalid(f"expected a string ({expected}), got {_json_type(value)}", name)
    if field.is_text:
        return value
    if not value.strip():
        return None
    try:
        # Encoders break lines, as `base64 FILE` does.
        return base64.b64decode("".join(value.splitlines()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _invalid(
            "not base64; send the file's bytes encoded as base64 (URLs, paths and data: URLs are "
            f"not followed): {error}",
            name,
        ) from error


def _parse_urlencoded(body: bytes, fields: Fields) -> dict[str, Value]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _invalid(f"the form is not UTF-8; send files as {MULTIPART}") from error
    sample: dict[str, Value] = {}
    for name, value in _pairs(text):
        if name not in fields:
            _refuse_unknown(name, fields)
        if name in sample:
            raise _invalid(_too_many(1), name)
        sample[name] = _from_pair(name, value, fields[name])
    return sample


def _from_pair(name: str, value: str, field: ModalityField) -> Value:
    if not value.strip():
        return None
    if not field.is_text:
        raise _invalid(
            f"a file cannot be sent as {URLENCODED}; send it as {MULTIPART}, "
            f"as `curl -F {name}=@FILE` does",
            name,
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        # Percent-encoding hid bytes that are not UTF-8: `dimml` says so when given these.
        return value.encode("utf-8", "surrogateescape")
    return value


def _pairs(form: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            form, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_PARTS
        )
    except ValueError as error:
        raise _invalid(f"more than {MAX_PARTS} fields") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a key is given twice")
    return document


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _json_type(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a boolean" if isinstance(value, bool) else "a number"


def _refuse_unknown(name: str, accepted: Iterable[str], what: str = "field") -> NoReturn:
    raise InputError(
        "unknown_field",
        f"unknown {what} {printable(name)!r}; accepted: {', '.join(accepted)}",
        printable(name),
    )


def _too_many(most: int) -> str:
    return "given more than once" if most == 1 else f"given more than {most} times"


def _invalid(message: str, field: str | None = None) -> InputError:
    return InputError("invalid_request", message, field)
