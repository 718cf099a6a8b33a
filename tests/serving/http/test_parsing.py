from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import urlencode

import pytest

from dimml.errors import InputError
from serving.http.parsing import JSON, MAX_PARTS, URLENCODED, ModalityField, parse_body, parse_query

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


class TestMultipart:
    def test_files_are_bytes_and_text_is_str(self) -> None:
        sample = parse_parts(
            part(FILE.format("audio", "a.wav"), b"\x00\r\n--xy\xff", "Content-Type: audio/wav"),
            part(FIELD.format("text"), "sieben 7️⃣".encode()),
        )
        assert sample == {"audio": b"\x00\r\n--xy\xff", "text": "sieben 7️⃣"}

    @pytest.mark.parametrize("text", ["123", "null", "true", "[1]", "\x00"])
    def test_text_stays_as_it_is_written(self, text: str) -> None:
        assert parse_parts(part(FIELD.format("text"), text.encode())) == {"text": text}

    @pytest.mark.parametrize(
        "empty",
        [
            part(FIELD.format("image"), b""),
            part(FIELD.format("image"), b"  \n"),
            part(FILE.format("image", ""), b"", "Content-Type: application/octet-stream"),
        ],
        ids=["field", "blank field", "file input left empty"],
    )
    def test_a_part_with_neither_name_nor_bytes_is_absent(self, empty: bytes) -> None:
        assert parse_parts(empty) == {"image": None}

    def test_a_named_file_of_no_bytes_is_passed_on_for_dimml_to_refuse(self) -> None:
        assert parse_parts(part(FILE.format("image", "a.png"), b"")) == {"image": b""}
        assert parse_parts(part(FILE.format("text", "a.txt"), b"")) == {"text": b""}

    def test_a_file_for_text_is_its_content(self) -> None:
        assert parse_parts(part(FILE.format("text", "note.txt"), b"two")) == {"text": "two"}

    def test_text_that_is_not_utf8_is_passed_on_for_dimml_to_refuse(self) -> None:
        assert parse_parts(part(FIELD.format("text"), b"\xff\xfe")) == {"text": b"\xff\xfe"}

    def test_a_part_typed_as_a_file_needs_no_file_name(self) -> None:
        sample = parse_parts(part(FIELD.format("image"), b"\x89PNG", "Content-Type: image/png"))
        assert sample == {"image": b"\x89PNG"}

    def test_several_frames_make_a_list(self) -> None:
        frames = [part(FILE.format("clip", f"{i}.png"), bytes([i])) for i in range(3)]
        assert parse_parts(*frames) == {"clip": [b"\x00", b"\x01", b"\x02"]}
        assert parse_parts(frames[1]) == {"clip": b"\x01"}

    def test_one_frame_too_many_is_refused(self) -> None:
        frames = [part(FILE.format("clip", "f.png"), b"x")] * 4
        error = refusal(BOUNDARY, multipart(*frames))
        assert (error.code, error.field) == ("invalid_request", "clip")

    @pytest.mark.parametrize("value", [b"http://127.0.0.1/a.png", b"/etc/passwd", b"file:///x"])
    def test_an_address_in_place_of_a_file_is_refused(self, value: bytes) -> None:
        error = refusal(BOUNDARY, multipart(part(FIELD.format("image"), value)))
        assert (error.code, error.field) == ("invalid_request", "image")
        assert "-F image=@FILE" in error.message

    def test_an_address_typed_as_a_file_is_only_bytes(self) -> None:
        value = part(FIELD.format("image"), b"/etc/passwd", "Content-Type: image/png")
        assert parse_parts(value) == {"image": b"/etc/passwd"}

    def test_an_unknown_field_is_refused_with_those_accepted(self) -> None:
        error = refusal(BOUNDARY, multipart(part(FIELD.format("video"), b"x")))
        assert (error.code, error.field) == ("unknown_field", "video")
        assert "audio, image, text, clip" in error.message

    def test_a_field_given_twice_is_refused(self) -> None:
        error = refusal(BOUNDARY, multipart(*[part(FIELD.format("text"), b"x")] * 2))
        assert (error.code, error.field) == ("invalid_request", "text")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", multipart(part(FIELD.format("text"), b"x"))),
            ("multipart/form-data; boundary=", multipart(part(FIELD.format("text"), b"x"))),
            (f"multipart/form-data; boundary={'x' * 300}", b"--x"),
            (BOUNDARY, multipart(part(FIELD.format("text"), b"x"))[:-6]),
            (BOUNDARY, part(FIELD.format("text"), b"cut off")[:-4]),
            (BOUNDARY, b"no multipart at all"),
            (BOUNDARY, multipart(part("attachment", b"x"))),
            (BOUNDARY, multipart(part("form-data", b"x"))),
            (BOUNDARY, multipart(b"--xyz\r\n\r\nno headers\r\n")),
            (BOUNDARY, multipart(part(FIELD.format("text"), b"x", *["X: y"] * 50))),
            (BOUNDARY, multipart(part(FIELD.format("text"), b"x", "X: " + "y" * 10_000))),
            (
                BOUNDARY,
                multipart(part(FIELD.format("text"), b"eA==", "Content-Transfer-Encoding: base64")),
            ),
            (BOUNDARY, multipart(*[part(FIELD.format("clip"), b"")] * (MAX_PARTS + 3))),
        ],
        ids=[
            "no boundary",
            "empty boundary",
            "boundary too long",
            "cut in the closing boundary",
            "cut in a part",
            "not multipart",
            "not form-data",
            "no field name",
            "no headers",
            "too many headers",
            "header too long",
            "transfer encoding",
            "too many parts",
        ],
    )
    def test_malformed_bodies_are_invalid_requests(self, content_type: str, body: bytes) -> None:
        assert refusal(content_type, body).code == "invalid_request"

    def test_a_closing_boundary_alone_is_an_empty_sample(self) -> None:
        assert parse_parts() == {}


class TestJson:
    def test_files_are_base64_and_null_is_absent(self) -> None:
        sample = parse_json({"audio": encoded(b"\x00\xff"), "image": None, "text": "two"})
        assert sample == {"audio": b"\x00\xff", "image": None, "text": "two"}
        assert parse_json({"image": ""}) == {"image": None}

    def test_base64_may_be_broken_into_lines(self) -> None:
        assert parse_json({"image": base64.encodebytes(b"x" * 100).decode()}) == {
            "image": b"x" * 100
        }
        assert parse_json({"image": "AA\r\nAA\r\n"}) == {"image": b"\0\0\0"}

    def test_several_frames_are_a_list(self) -> None:
        assert parse_json({"clip": [encoded(b"a"), encoded(b"b")]}) == {"clip": [b"a", b"b"]}
        assert parse_json({"clip": encoded(b"a")}) == {"clip": b"a"}

    @pytest.mark.parametrize(
        "value",
        [
            "http://127.0.0.1/a.png",
            "data:image/png;base64,AAAA",
            "/etc/passwd",
            "AAA",
            "AA AA",
            "é",
            1,
            True,
            1.5,
            {},
            ["AAAA"],
        ],
    )
    def test_what_is_not_base64_is_refused(self, value: object) -> None:
        error = refusal(JSON, json.dumps({"image": value}).encode())
        assert (error.code, error.field) == ("invalid_request", "image")
        assert "base64" in error.message

    @pytest.mark.parametrize("value", [1, False, [], {}, ["two"]])
    def test_text_is_a_string(self, value: object) -> None:
        error = refusal(JSON, json.dumps({"text": value}).encode())
        assert (error.code, error.field) == ("invalid_request", "text")

    @pytest.mark.parametrize(
        "body",
        [
            b'{"text": ',
            b"[]",
            b'"text"',
            b"null",
            b"1",
            b'{"text": NaN}',
            b'{"text": Infinity}',
            b'{"text": "a", "text": "b"}',
            b'{"text": "\xff"}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"text": ' + b"1" * 5_000 + b"}",
            b'{"clip": ["AAAA", "AAAA", "AAAA", "AAAA"]}',
        ],
    )
    def test_malformed_bodies_are_invalid_requests(self, body: bytes) -> None:
        assert refusal(JSON, body).code == "invalid_request"

    def test_an_unknown_key_is_refused_even_where_it_cannot_be_encoded(self) -> None:
        error = refusal(JSON, b'{"\\ud800": "x"}')
        assert (error.code, error.field) == ("unknown_field", "?")
        assert len(refusal(JSON, json.dumps({"k" * 10_000: 1}).encode()).message) < 200


class TestUrlencoded:
    def test_it_takes_text(self) -> None:
        assert parse_body(URLENCODED, b"text=seven+up%21", FIELDS) == {"text": "seven up!"}
        assert parse_body(URLENCODED, "text=drei 3️⃣".encode(), FIELDS) == {"text": "drei 3️⃣"}

    def test_an_empty_value_is_absent(self) -> None:
        assert parse_body(URLENCODED, b"text=&image=", FIELDS) == {"text": None, "image": None}

    def test_it_takes_no_file(self) -> None:
        error = refusal(URLENCODED, urlencode({"image": "/etc/passwd"}).encode())
        assert (error.code, error.field) == ("invalid_request", "image")

    def test_percent_encoded_bytes_that_are_not_utf8_are_passed_on_for_dimml_to_refuse(
        self,
    ) -> None:
        assert parse_body(URLENCODED, b"text=%ff", FIELDS) == {"text": b"\xff"}

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"text=a&text=b", "invalid_request"),
            (b"\xff\xfe", "invalid_request"),
            (b"&".join([b"text=a"] * 100), "invalid_request"),
            (b"seven", "unknown_field"),
            (b"%ff=1", "unknown_field"),
        ],
    )
    def test_malformed_bodies_are_refused(self, body: bytes, code: str) -> None:
        assert refusal(URLENCODED, body).code == code


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png", "application/jsonp", "x"])
def test_other_content_types_are_refused_with_those_accepted(content_type: str) -> None:
    error = refusal(content_type, b"x")
    assert (error.code, error.field) == ("unsupported_type", None)
    assert "multipart/form-data, application/json" in error.message


def test_content_types_are_read_without_regard_to_case_or_parameters() -> None:
    body = b'{"text": "two"}'
    assert parse_body("Application/JSON; charset=utf-8", body, FIELDS) == {"text": "two"}


def test_no_body_is_an_empty_sample() -> None:
    assert parse_body("", b"", FIELDS) == {}


def test_nothing_a_client_sends_opens_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    for body in (
        multipart(part(FIELD.format("image"), str(secret).encode())),
        multipart(part(FILE.format("image", str(secret)), b"y")),
    ):
        try:
            sample = parse_body(BOUNDARY, body, FIELDS)
        except InputError:
            continue
        assert sample == {"image": b"y"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", "error"), ("on_unreadable=error", "error"), ("on_unreadable=absent", "absent")],
)
def test_the_query_says_what_to_do_with_the_unreadable(query: str, expected: str) -> None:
    assert parse_query(query) == expected


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("on_unreadable=maybe", "invalid_request", "on_unreadable"),
        ("on_unreadable=", "invalid_request", "on_unreadable"),
        ("on_unreadable=error&on_unreadable=absent", "invalid_request", "on_unreadable"),
        ("on-unreadable=absent", "unknown_field", "on-unreadable"),
        ("debug", "unknown_field", "debug"),
        ("&".join(f"a{i}=1" for i in range(100)), "invalid_request", None),
    ],
)
def test_other_queries_are_refused(query: str, code: str, field: str | None) -> None:
    with pytest.raises(InputError) as caught:
        parse_query(query)
    assert (caught.value.code, caught.value.field) == (code, field)
