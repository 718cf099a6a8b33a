"""Unusual and hostile forms, names and texts: each has the response that docs/inputs.md states."""

from __future__ import annotations

import gzip
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serving.media import PNG, to_base64

MAX_PART_BYTES = 100_000
MAX_CHARACTERS = 20_000


FIELD = b'Content-Disposition: form-data; name="text"'
TEXT_PLAIN = FIELD + b"\r\nContent-Type: text/plain; charset="
FILE = b'Content-Disposition: form-data; name="image"; filename="%b"'


def body(content: bytes, content_type: str) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": content_type}}


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"xyz") -> dict[str, Any]:
    """Return a request with a form whose parts have the given header lines and contents."""
    pieces = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for head, content in parts]
    return body(b"".join(pieces) + b"--%b--\r\n" % boundary, multipart_type(boundary.decode()))


def multipart_type(boundary: str) -> str:
    return f"multipart/form-data; boundary={boundary}"


def text_form(content: str) -> dict[str, Any]:
    return form((FIELD, content.encode()))


def file_form(name: str) -> dict[str, Any]:
    return form((FILE % name.encode(), PNG))


def form_of_parts(count: int) -> dict[str, Any]:
    """Return a form of one text and further parts without content, which count as absent."""
    return form((FIELD, b"seven"), *[(FILE % b"", b"")], *[(FIELD, b"")] * (count - 2))


def part_of_headers(count: int) -> dict[str, Any]:
    return form((b"\r\n".join([FIELD, *[b"X-%d: y" % n for n in range(count - 1)]]), b"seven"))


def raw_form(content: bytes, boundary: str = "xyz") -> dict[str, Any]:
    return body(content, multipart_type(boundary))


def json_body(content: object) -> dict[str, Any]:
    return body(json.dumps(content).encode(), "application/json")


PART = b"--xyz\r\n%b\r\n\r\nseven\r\n" % FIELD
LONG_BOUNDARY = "b" * 200
NESTED = b"--in\r\n%b\r\n\r\nseven\r\n--in--\r\n" % FIELD

CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "null bytes in a text": lambda: text_form("a\0b"),
    "emoji": lambda: text_form("👩‍👩‍👧‍👦 7️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿"),
    "right-to-left text": lambda: text_form("\u202eשבע \u0667"),
    "5,000 combining characters": lambda: text_form("a" + "\u0301\u0316" * 2_500),
    "byte order mark and text": lambda: text_form("\ufeffseven"),
    "invisible characters alone": lambda: text_form("\u200b\u2060"),
    "blanks alone": lambda: text_form(" \t\r\n\u00a0"),
    "text of as many characters as allowed": lambda: text_form("x" * MAX_CHARACTERS),
    "text of one character more": lambda: text_form("x" * (MAX_CHARACTERS + 1)),
    "emoji of as many characters as allowed": lambda: text_form("🎲" * MAX_CHARACTERS),
    "lone surrogate in JSON": lambda: body(b'{"text": "\\ud800"}', "application/json"),
    "null character in JSON": lambda: json_body({"text": "a\0b"}),
    "lone surrogate in UTF-8": lambda: form((FIELD, b"\xed\xa0\x80")),
    "file name of 300 characters": lambda: file_form("n" * 300),
    "file name of 10,000 characters": lambda: file_form("n" * 10_000),
    "file name that is a path": lambda: file_form("../../etc/passwd"),
    "file name that is a Windows path": lambda: file_form("C:\\\\a\\\\b.png"),
    "file name that is a URL": lambda: file_form("http://127.0.0.1:9/a.png"),
    "file name with a null byte": lambda: file_form("a\0.png"),
    "file name in Hebrew": lambda: file_form("שבע.png"),
    "file name not UTF-8": lambda: form((FILE % b"\xff\xfe", PNG)),
    "file name encoded as in RFC 8187": lambda: form(
        (FILE.replace(b'filename="%b"', b"filename*=UTF-8''%e2%82%ac.png"), PNG)
    ),
    "field name with a null byte": lambda: form((FIELD.replace(b"text", b"te\0xt"), b"seven")),
    "field name in other case": lambda: form((FIELD.replace(b"text", b"Text"), b"seven")),
    "field name of 3,000 characters": lambda: form((FIELD.replace(b"text", b"t" * 3_000), b"x")),
    "file URL in a file field": lambda: form((FIELD.replace(b"text", b"image"), b"file:///a")),
    "the same file twice": lambda: form(*[(FILE % b"a.png", PNG)] * 2),
    "a field and a file of one name": lambda: form(
        (FIELD.replace(b"text", b"image"), b"x"), (FILE % b"a.png", PNG)
    ),
    "text twice, once empty": lambda: form_of_parts(3),
    "17 parts": lambda: form_of_parts(17),
    "part over its limit": lambda: form((FILE % b"a.png", PNG + bytes(MAX_PART_BYTES))),
    "part of 8 headers": lambda: part_of_headers(8),
    "part of 9 headers": lambda: part_of_headers(9),
    "part header of 5,000 bytes": lambda: form((FIELD + b"\r\nX: " + b"y" * 5_000, b"seven")),
    "folded part header": lambda: form((FIELD.replace(b"; ", b";\r\n "), b"seven")),
    "boundary of 70 characters": lambda: form((FIELD, b"seven"), boundary=b"b" * 70),
    "boundary of 200 characters": lambda: form((FIELD, b"seven"), boundary=LONG_BOUNDARY.encode()),
    "quoted boundary": lambda: raw_form(PART.replace(b"xyz", b"x y") + b"--x y--\r\n", '"x y"'),
    "boundary that is missing": lambda: body(PART + b"--xyz--\r\n", "multipart/form-data"),
    "empty boundary": lambda: raw_form(b"--\r\n%b\r\n\r\nseven\r\n----\r\n" % FIELD, '""'),
    "another boundary than declared": lambda: raw_form(PART + b"--xyz--\r\n", "abc"),
    "boundary inside the content": lambda: form((FIELD, b"a --xyz b"), (FILE % b"", b"")),
    "boundary at a line's start inside the content": lambda: form((FIELD, b"a\r\n--xyzb")),
    "line feeds alone": lambda: raw_form((PART + b"--xyz--\r\n").replace(b"\r\n", b"\n")),
    "preamble": lambda: raw_form(b"This is a form.\r\n" + PART + b"--xyz--\r\n"),
    "preamble of 5,000 bytes": lambda: raw_form(b"x" * 5_000 + b"\r\n" + PART + b"--xyz--\r\n"),
    "text in ISO-8859-1": lambda: form((TEXT_PLAIN + b"ISO-8859-1", b"caf\xe9")),
    "text in UTF-16": lambda: form((TEXT_PLAIN + b"UTF-16", "café".encode("utf-16"))),
    "text in an unknown charset": lambda: form((TEXT_PLAIN + b"klingon", b"seven")),
    "text that is not in its charset": lambda: form((TEXT_PLAIN + b"Shift_JIS", b"\xff\xff")),
    "epilogue": lambda: raw_form(PART + b"--xyz--\r\nThis was a form."),
    "nested multipart": lambda: form((FIELD + b"\r\nContent-Type: " + b"multipart/mixed", NESTED)),
    "form sent as multipart/mixed": lambda: body(
        PART + b"--xyz--\r\n", "multipart/mixed; boundary=xyz"
    ),
    "gzip of a form": lambda: body(gzip.compress(PART + b"--xyz--\r\n"), multipart_type("xyz")),
    "gzip declared": lambda: {
        "content": gzip.compress(bytes(10**7)),
        "headers": {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    },
    "JSON of one key 10,000 times": lambda: body(
        b"{" + b",".join([b'"text": "a"'] * 10_000) + b"}", "application/json"
    ),
    "JSON with a number of 5,000 digits": lambda: body(
        b'{"text": ' + b"7" * 5_000 + b"}", "application/json"
    ),
    "JSON in UTF-16": lambda: body('{"text": "x"}'.encode("utf-16"), "application/json"),
    "JSON with a byte order mark": lambda: body(b'\xef\xbb\xbf{"text": "x"}', "application/json"),
    "prototype pollution": lambda: json_body({"__proto__": {"text": "x"}}),
    "data URL in JSON": lambda: json_body({"image": "data:image/png;base64," + to_base64(PNG)}),
    "data URL without base64": lambda: json_body({"image": "data:image/svg+xml,<svg/>"}),
    "URL-safe base64": lambda: json_body({"image": urlsafe_b64encode(PNG).decode()}),
    "base64 without padding": lambda: json_body({"image": to_base64(PNG).rstrip("=")}),
    "list of one image": lambda: json_body({"image": [to_base64(PNG)]}),
    "list of one text": lambda: json_body({"text": ["seven"]}),
    "JSON sent as a form": lambda: body(b'{"text": "seven"}', "application/x-www-form-urlencoded"),
    "urlencoded plus and percent": lambda: body(
        b"text=a+%e2%82%ac", "application/x-www-form-urlencoded"
    ),
    "urlencoded fields by semicolons": lambda: body(
        b"text=a;text=b", "application/x-www-form-urlencoded"
    ),
    "on_unreadable in other case": lambda: {
        **text_form("seven"),
        "params": {"ON_UNREADABLE": "absent"},
    },
}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_part_bytes=MAX_PART_BYTES) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_request_has_its_documented_response(
    client: TestClient, documented_responses: Any, name: str
) -> None:
    response = client.post("/predict", **CASES[name]())
    error = response.json().get("error", {"code": None, "message": ""})
    assert (response.status_code, error["code"]) == documented_responses("Forms and text")[name]
    assert len(error["message"]) < 500


def test_every_documented_request_is_tested(documented_responses: Any) -> None:
    assert set(documented_responses("Forms and text")) == set(CASES)


def test_error_of_a_part_over_its_limit_names_the_field_and_the_limit(client: TestClient) -> None:
    error = client.post("/predict", **CASES["part over its limit"]()).json()["error"]
    assert error["field"] == "image"
    assert f"{MAX_PART_BYTES:,} bytes" in error["message"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boundary inside the content", "a --xyz b"),
        ("preamble", "seven"),
        ("epilogue", "seven"),
        ("text in ISO-8859-1", "café"),
        ("text in UTF-16", "café"),
        ("list of one text", "seven"),
    ],
)
def test_text_is_the_content_between_the_boundaries(
    client: TestClient, name: str, text: str
) -> None:
    response = client.post("/predict", **CASES[name]())
    assert response.json() == client.post("/predict", data={"text": text}).json()


def test_text_over_the_limit_is_cut_with_a_warning(tiny_bundle: Path, open_client: Any) -> None:
    with open_client(tiny_bundle, max_characters=50) as client:
        long = client.post("/predict", data={"text": "seven " * 10}).json()
        short = client.post("/predict", data={"text": ("seven " * 10)[:50]}).json()
    expected = "the text has 60 characters; only the first 50 were read"
    assert expected in long["modalities"]["text"]["warnings"]
    assert long["probabilities"] == short["probabilities"]


@pytest.mark.parametrize(
    "name", ["data URL in JSON", "URL-safe base64", "base64 without padding", "list of one image"]
)
def test_encoded_image_is_the_image(client: TestClient, name: str) -> None:
    response = client.post("/predict", **CASES[name]())
    assert response.json() == client.post("/predict", files={"image": ("a.png", PNG)}).json()


def test_text_not_in_its_charset_is_absent_on_request(client: TestClient) -> None:
    request = form((TEXT_PLAIN + b"Shift_JIS", b"\xff\xff"), (FILE % b"a.png", PNG))
    response = client.post("/predict", params={"on_unreadable": "absent"}, **request)
    assert response.status_code == 200
    assert not response.json()["modalities"]["text"]["present"]
