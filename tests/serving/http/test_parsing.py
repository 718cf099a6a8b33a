from __future__ import annotations

import base64
import json
from urllib.parse import urlencode

import pytest

from dimml.details import NO_DETAILS, Details
from dimml.errors import InputError
from serving.http.parsing import JSON, URLENCODED, parse_body
from serving.http.query import PredictOptions, parse_query
from tests.serving.http.bodies import FIELDS, parse_error, parse_json
from tests.serving.media import to_base64


class TestJson:
    def test_json_files_are_base64_and_null_is_absent(self) -> None:
        sample = parse_json({"audio": to_base64(b"\x00\xff"), "image": None, "text": "two"})
        assert sample == {"audio": b"\x00\xff", "image": None, "text": "two"}
        assert parse_json({"image": ""}) == {"image": None}

    def test_base64_may_be_broken_into_lines(self) -> None:
        assert parse_json({"image": base64.encodebytes(b"x" * 100).decode()}) == {
            "image": b"x" * 100
        }
        assert parse_json({"image": "AA\r\nAA\r\n"}) == {"image": b"\0\0\0"}

    @pytest.mark.parametrize("prefix", ["data:image/png;base64,", "DATA:;charset=x;BASE64,"])
    def test_data_url_is_its_content(self, prefix: str) -> None:
        content = bytes(range(256))
        assert parse_json({"image": prefix + to_base64(content)}) == {"image": content}
        assert parse_json({"text": prefix}) == {"text": prefix}

    @pytest.mark.parametrize("length", [254, 255, 256])
    def test_url_safe_and_unpadded_base64_are_accepted(self, length: int) -> None:
        content = bytes(range(256))[-length:]
        padded = base64.urlsafe_b64encode(content).decode()
        assert "-" in padded
        for value in (padded, padded.rstrip("="), to_base64(content).rstrip("=")):
            assert parse_json({"image": value}) == {"image": content}

    def test_list_of_one_value_is_the_value(self) -> None:
        assert parse_json({"image": [to_base64(b"a")], "text": ["two"]}) == {
            "image": b"a",
            "text": "two",
        }
        assert parse_json({"image": [None], "text": [""]}) == {"image": None, "text": ""}

    def test_json_frames_are_a_list(self) -> None:
        assert parse_json({"clip": [to_base64(b"a"), to_base64(b"b")]}) == {"clip": [b"a", b"b"]}
        assert parse_json({"clip": to_base64(b"a")}) == {"clip": b"a"}

    @pytest.mark.parametrize(
        "value",
        [
            "http://127.0.0.1/a.png",
            "data:image/png,AAAA",
            "data:image/png;base64",
            "data:image/png;base64,http://127.0.0.1/a.png",
            "/etc/passwd",
            "AAA",
            "AA AA",
            "é",
            1,
            True,
            1.5,
            {},
            [],
            [1],
            [["AAAA"]],
        ],
    )
    def test_json_file_that_is_not_base64_is_rejected(self, value: object) -> None:
        error = parse_error(JSON, json.dumps({"image": value}).encode())
        assert (error.code, error.field) == ("invalid_request", "image")
        assert "base64" in error.message

    @pytest.mark.parametrize("value", [1, False, [], {}, [2], ["one", "two"]])
    def test_json_text_that_is_not_a_string_is_rejected(self, value: object) -> None:
        error = parse_error(JSON, json.dumps({"text": value}).encode())
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
    def test_malformed_json_is_an_invalid_request(self, body: bytes) -> None:
        assert parse_error(JSON, body).code == "invalid_request"

    def test_unknown_json_key_is_rejected_even_if_it_cannot_be_encoded(self) -> None:
        error = parse_error(JSON, b'{"\\ud800": "x"}')
        assert (error.code, error.field) == ("unknown_field", "?")
        assert len(parse_error(JSON, json.dumps({"k" * 10_000: 1}).encode()).message) < 200


class TestUrlencoded:
    @pytest.mark.parametrize("body", [b'{"text": "two"}', b'\r\n {"text=": 1}'])
    def test_json_sent_as_a_form_names_the_missing_header(self, body: bytes) -> None:
        error = parse_error(URLENCODED, body)
        assert (error.code, error.field) == ("unsupported_type", None)
        assert "`Content-Type: application/json`" in error.message

    def test_urlencoded_text_is_decoded(self) -> None:
        assert parse_body(URLENCODED, b"text=seven+up%21", FIELDS) == {"text": "seven up!"}
        assert parse_body(URLENCODED, "text=drei 3️⃣".encode(), FIELDS) == {"text": "drei 3️⃣"}

    def test_empty_urlencoded_value_is_absent(self) -> None:
        assert parse_body(URLENCODED, b"text=&image=", FIELDS) == {"text": None, "image": None}

    def test_urlencoded_file_is_rejected(self) -> None:
        error = parse_error(URLENCODED, urlencode({"image": "/etc/passwd"}).encode())
        assert (error.code, error.field) == ("invalid_request", "image")

    def test_urlencoded_text_that_is_not_utf8_is_passed_to_the_decoder(self) -> None:
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
    def test_malformed_urlencoded_body_is_rejected(self, body: bytes, code: str) -> None:
        assert parse_error(URLENCODED, body).code == code


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png", "application/jsonp", "x"])
def test_unsupported_content_type_error_lists_the_accepted_types(content_type: str) -> None:
    error = parse_error(content_type, b"x")
    assert (error.code, error.field) == ("unsupported_type", None)
    assert "multipart/form-data, application/json" in error.message


def test_case_and_parameters_of_the_content_type_are_ignored() -> None:
    body = b'{"text": "two"}'
    assert parse_body("Application/JSON; charset=utf-8", body, FIELDS) == {"text": "two"}


def test_empty_body_is_an_empty_sample() -> None:
    assert parse_body("", b"", FIELDS) == {}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", PredictOptions("error", NO_DETAILS)),
        ("on_unreadable=error", PredictOptions("error", NO_DETAILS)),
        ("on_unreadable=absent", PredictOptions("absent", NO_DETAILS)),
        ("features=1", PredictOptions("error", Details(features=True))),
        ("explain=1", PredictOptions("error", Details(explain=True))),
        ("features=1&explain=1", PredictOptions("error", Details(True, True))),
        ("features=0&on_unreadable=absent", PredictOptions("absent", NO_DETAILS)),
    ],
)
def test_query_sets_the_options(query: str, expected: PredictOptions) -> None:
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
def test_invalid_query_is_rejected(query: str, code: str, field: str | None) -> None:
    with pytest.raises(InputError) as error:
        parse_query(query)
    assert (error.value.code, error.value.field) == (code, field)
