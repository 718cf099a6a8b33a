"""Strict parsing of a request body into a sample. Parsing opens no file and fetches no URL."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qsl

from dimml.errors import InputError
from serving.http.decoding import decode_base64, find_codec
from serving.http.multipart import Part, read_parts

MULTIPART = "multipart/form-data"
JSON = "application/json"
NDJSON = "application/x-ndjson"
URLENCODED = "application/x-www-form-urlencoded"
CONTENT_TYPES = (MULTIPART, JSON, NDJSON, URLENCODED)
MAX_PARTS = 16
MAX_PART_BYTES = 20_000_000

_JSON_AS_FORM = (
    f"the body is JSON, but its Content-Type is {URLENCODED}; send the header "
    f"`Content-Type: {JSON}`, as `curl -H 'Content-Type: {JSON}' -d @FILE` does"
)

Value: TypeAlias = bytes | str | list[Any] | None


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request whose body is complete but not parsed.

    Attributes:
        content_type: The `Content-Type` header, "" if the request has none.
        query: The query string.
        body: The whole body.
    """

    content_type: str
    query: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ModalityField:
    """What a request may send for one modality.

    Attributes:
        is_text: Whether the modality accepts text instead of files.
        most: Maximum number of files, more than 1 for a modality with several frames.
    """

    is_text: bool
    most: int = 1


Fields: TypeAlias = Mapping[str, ModalityField]


def parse_body(
    content_type: str,
    body: bytes,
    fields: Fields,
    max_parts: int = MAX_PARTS,
    max_part_bytes: int = MAX_PART_BYTES,
) -> dict[str, Value]:
    """Return the sample in a body: modality name to bytes, text, list of bytes or None.

    The value of a file modality is never a str, because `dimml` would open a str as a path.

    Args:
        content_type: The `Content-Type` header, "" if the request has none.
        body: The whole body.
        fields: What each modality accepts.
        max_parts: Maximum number of parts of a form. Only the first file of a modality with
            several frames counts.
        max_part_bytes: Maximum size of one part of a form.

    Raises:
        InputError: `unsupported_type`, `unknown_field`, `too_large` or `invalid_request`.
    """
    if not body:
        return {}
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == MULTIPART:
        max_parts += sum(field.most - 1 for field in fields.values())
        return _parse_multipart(read_parts(content_type, body, max_parts, max_part_bytes), fields)
    if media_type == JSON:
        return _parse_json(body, fields)
    if media_type == URLENCODED:
        if body[:64].lstrip().startswith(b"{"):
            raise InputError("unsupported_type", _JSON_AS_FORM)
        return _parse_urlencoded(body, fields)
    problem = f"{printable(media_type)!r} is not accepted" if media_type else "missing"
    accepted = ", ".join(CONTENT_TYPES)
    raise InputError("unsupported_type", f"Content-Type: {problem}; send one of {accepted}")


def printable(text: str) -> str:
    """Return the first 64 characters of a client's text, encodable as UTF-8."""
    return text[:64].encode("utf-8", "replace").decode()


def _parse_multipart(parts: Iterable[Part], fields: Fields) -> dict[str, Value]:
    groups: dict[str, list[Part]] = {}
    for part in parts:
        if part.name not in fields:
            reject_unknown(part.name, fields)
        groups.setdefault(part.name, []).append(part)
    return {name: _value_of_parts(name, group, fields[name]) for name, group in groups.items()}


def _value_of_parts(name: str, parts: list[Part], field: ModalityField) -> Value:
    if len(parts) > field.most:
        raise _too_many_values(name, field.most)
    values = [_value_of_part(part, field) for part in parts if not part.is_absent]
    if len(parts) == 1:
        return values[0] if values else None
    return values


def _value_of_part(part: Part, field: ModalityField) -> Value:
    if field.is_text:
        return _text_or_bytes(part.content, find_codec(part.charset, part.name))
    if part.is_file:
        return part.content
    if not part.content.strip():
        return None
    raise _invalid(
        f"expected a file, got a plain form field; send the content of the file, "
        f"as `curl -F {part.name}=@FILE` does (the service opens no URLs or paths)",
        part.name,
    )


def _text_or_bytes(content: bytes, codec: str) -> Value:
    """Return the text, or the bytes if they are empty or not in the codec.

    `dimml` reads bytes as UTF-8, and rejects them if they are something else.
    """
    try:
        return content.decode(codec) or content
    except UnicodeError:
        return content


def _parse_json(body: bytes, fields: Fields) -> dict[str, Value]:
    try:
        document = json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_unique_keys, parse_constant=_reject_nan
        )
    except RecursionError as error:
        raise _invalid("the JSON is nested too deeply; send one flat object") from error
    except ValueError as error:
        # Several samples, a JSON object on each line, have a media type of their own.
        hint = f"; send several samples as {NDJSON}" if "Extra data" in str(error) else ""
        raise _invalid(f"not valid JSON: {error}{hint}") from error
    if not isinstance(document, dict):
        raise _invalid(f"expected a JSON object with any of {', '.join(fields)}")
    for name in document:
        if name not in fields:
            reject_unknown(name, fields)
    return {name: _value_of_json(name, value, fields[name]) for name, value in document.items()}


def _value_of_json(name: str, value: object, field: ModalityField) -> Value:
    if isinstance(value, list) and (value or field.most > 1):
        if len(value) > field.most:
            raise _too_many_values(name, field.most)
        if field.most == 1:
            return _value_of_json_scalar(name, value[0], field)
        return [_entry_of_json_list(name, item, field) for item in value]
    return _value_of_json_scalar(name, value, field)


def _entry_of_json_list(name: str, entry: object, field: ModalityField) -> Value:
    if isinstance(entry, list):
        # A pair of pictures of optical flow.
        return [_value_of_json_scalar(name, item, field) for item in entry]
    return _value_of_json_scalar(name, entry, field)


def _value_of_json_scalar(name: str, value: object, field: ModalityField) -> Value:
    if value is None:
        return None
    if not isinstance(value, str):
        expected = "text" if field.is_text else "the content of the file, encoded as base64"
        raise _invalid(f"expected a string ({expected}), got {_json_type(value)}", name)
    if field.is_text:
        return value
    if not value.strip():
        return None
    try:
        return decode_base64(value)
    except ValueError as error:
        raise _invalid(
            f"the value is not base64: {error}; send the content of the file encoded as base64, or "
            "as a `data:` URL of it (the service opens no other URLs, and no paths)",
            name,
        ) from error


def _parse_urlencoded(body: bytes, fields: Fields) -> dict[str, Value]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _invalid(f"the form is not UTF-8; send files as {MULTIPART}") from error
    sample: dict[str, Value] = {}
    for name, value in parse_pairs(text):
        if name not in fields:
            reject_unknown(name, fields)
        if name in sample:
            raise _too_many_values(name, 1)
        sample[name] = _value_of_pair(name, value, fields[name])
    return sample


def _value_of_pair(name: str, value: str, field: ModalityField) -> Value:
    if not value.strip():
        return None
    if not field.is_text:
        raise _invalid(
            f"{URLENCODED} cannot carry a file; send the file as {MULTIPART}, "
            f"as `curl -F {name}=@FILE` does",
            name,
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        # The percent-encoded bytes are not UTF-8: return them for `dimml` to reject.
        return value.encode("utf-8", "surrogateescape")
    return value


def parse_pairs(form: str) -> list[tuple[str, str]]:
    """Return the names and values of a form or query string, of which bytes may be surrogates."""
    try:
        return parse_qsl(
            form, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_PARTS
        )
    except ValueError as error:
        raise _invalid(f"the form or query string has more than {MAX_PARTS} fields") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _reject_nan(constant: str) -> NoReturn:
    """Reject NaN and Infinity, which Python's parser accepts beyond the standard."""
    raise ValueError(f"{constant} is not JSON")


def _json_type(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "a boolean" if isinstance(value, bool) else "a number"


def reject_unknown(name: str, accepted: Iterable[str], what: str = "field") -> NoReturn:
    """Raise the error of a name that is not accepted."""
    raise InputError(
        "unknown_field",
        f"unknown {what} {printable(name)!r}; accepted: {', '.join(accepted)}",
        printable(name),
    )


def _too_many_values(name: str, limit: int) -> InputError:
    accepted = "one value" if limit == 1 else f"{limit} values"
    return _invalid(f"the field has more than {accepted}", name)


def _invalid(message: str, field: str | None = None) -> InputError:
    return InputError("invalid_request", message, field)
