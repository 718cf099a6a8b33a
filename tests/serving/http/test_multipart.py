from __future__ import annotations

from pathlib import Path

import pytest

from dimml.errors import InputError
from serving.http.multipart import MAX_PREAMBLE_BYTES
from serving.http.parsing import MAX_PARTS, parse_body
from tests.serving.http.bodies import (
    FIELDS,
    MULTIPART,
    encode_field,
    encode_file,
    encode_form,
    encode_part,
    parse_error,
    parse_form,
)

TEXT = encode_field("text", b"x")

MALFORMED_FORMS = {
    "no boundary": ("multipart/form-data", encode_form(TEXT)),
    "empty boundary": ("multipart/form-data; boundary=", encode_form(TEXT)),
    "boundary too long": (f"multipart/form-data; boundary={'x' * 300}", b"--x"),
    "cut in the closing boundary": (MULTIPART, encode_form(TEXT)[:-6]),
    "cut in a part": (MULTIPART, encode_field("text", b"cut off")[:-4]),
    "not multipart": (MULTIPART, b"no multipart at all"),
    "not form-data": (MULTIPART, encode_form(encode_part("attachment", b"x"))),
    "no field name": (MULTIPART, encode_form(encode_part("form-data", b"x"))),
    "no headers": (MULTIPART, encode_form(b"--xyz\r\n\r\nno headers\r\n")),
    "too many headers": (MULTIPART, encode_form(encode_field("text", b"x", *["X: y"] * 50))),
    "header too long": (MULTIPART, encode_form(encode_field("text", b"x", "X: " + "y" * 10_000))),
    "transfer encoding": (
        MULTIPART,
        encode_form(encode_field("text", b"eA==", "Content-Transfer-Encoding: base64")),
    ),
    "preamble too long": (MULTIPART, b"x" * (MAX_PREAMBLE_BYTES + 1) + b"\r\n" + encode_form(TEXT)),
    "preamble alone": (MULTIPART, b"x\r\n--xyz"),
    "too many parts": (MULTIPART, encode_form(*[encode_field("clip", b"")] * (MAX_PARTS + 3))),
}


def test_files_are_bytes_and_text_is_str() -> None:
    sample = parse_form(
        encode_file("audio", "a.wav", b"\x00\r\n--xy\xff", "Content-Type: audio/wav"),
        encode_field("text", "sieben 7️⃣".encode()),
    )
    assert sample == {"audio": b"\x00\r\n--xy\xff", "text": "sieben 7️⃣"}


@pytest.mark.parametrize("text", ["123", "null", "true", "[1]", "\x00"])
def test_text_field_is_not_interpreted(text: str) -> None:
    assert parse_form(encode_field("text", text.encode())) == {"text": text}


@pytest.mark.parametrize("preamble", [b"", b"A form.", b"--xy\r\n--", b"x" * MAX_PREAMBLE_BYTES])
def test_preamble_is_ignored(preamble: bytes) -> None:
    body = preamble + b"\r\n" + encode_form(TEXT)
    assert parse_body(MULTIPART, body, FIELDS) == {"text": "x"}


@pytest.mark.parametrize(
    ("charset", "content"),
    [
        ("ISO-8859-1", b"caf\xe9"),
        ('"windows-1252"', b"caf\xe9"),
        ("utf-16", "café".encode("utf-16")),
        ("Shift_JIS", "七".encode("shift_jis")),
        ("US-ASCII", "café".encode()),
        ("utf-8", "café".encode()),
    ],
)
def test_text_is_decoded_by_its_charset(charset: str, content: bytes) -> None:
    header = f"Content-Type: text/plain; charset={charset}"
    expected = {"text": "七"} if "JIS" in charset else {"text": "café"}
    parsed = parse_form(encode_field("text", content, header))
    # `dimml` reads what is not in its charset as UTF-8.
    assert parsed == ({"text": content} if "ASCII" in charset else expected)


@pytest.mark.parametrize("charset", ["klingon", "base64", "punycode", "x" * 2000, '"a\0b"', '"é"'])
def test_text_of_an_unknown_charset_is_rejected(charset: str) -> None:
    header = f"Content-Type: text/plain; charset={charset}"
    error = parse_error(MULTIPART, encode_form(encode_field("text", b"x", header)))
    assert (error.code, error.field) == ("unsupported_type", "text")
    assert "charset" in error.message
    assert len(error.message) < 300


def test_charset_of_a_file_is_ignored() -> None:
    part = encode_file("image", "a.png", b"\xe9", "Content-Type: image/png; charset=klingon")
    assert parse_form(part) == {"image": b"\xe9"}


@pytest.mark.parametrize(
    "part",
    [
        encode_field("image", b""),
        encode_field("image", b"  \n"),
        encode_file("image", "", b"", "Content-Type: application/octet-stream"),
    ],
    ids=["field", "blank field", "file input left empty"],
)
def test_part_without_file_name_and_content_is_absent(part: bytes) -> None:
    assert parse_form(part) == {"image": None}


def test_empty_file_with_a_name_is_passed_to_the_decoder() -> None:
    assert parse_form(encode_file("image", "a.png", b"")) == {"image": b""}
    assert parse_form(encode_file("text", "a.txt", b"")) == {"text": b""}


def test_text_file_is_its_content() -> None:
    assert parse_form(encode_file("text", "note.txt", b"two")) == {"text": "two"}


def test_multipart_text_that_is_not_utf8_is_passed_to_the_decoder() -> None:
    assert parse_form(encode_field("text", b"\xff\xfe")) == {"text": b"\xff\xfe"}


def test_part_with_a_content_type_needs_no_file_name() -> None:
    sample = parse_form(encode_field("image", b"\x89PNG", "Content-Type: image/png"))
    assert sample == {"image": b"\x89PNG"}


def test_repeated_frames_make_a_list() -> None:
    frames = [encode_file("clip", f"{i}.png", bytes([i])) for i in range(3)]
    assert parse_form(*frames) == {"clip": [b"\x00", b"\x01", b"\x02"]}
    assert parse_form(frames[1]) == {"clip": b"\x01"}


def test_one_frame_too_many_is_rejected() -> None:
    frames = [encode_file("clip", "f.png", b"x")] * 4
    error = parse_error(MULTIPART, encode_form(*frames))
    assert (error.code, error.field) == ("invalid_request", "clip")


@pytest.mark.parametrize("address", [b"http://127.0.0.1/a.png", b"/etc/passwd", b"file:///x"])
def test_url_or_path_in_a_file_field_is_rejected(address: bytes) -> None:
    error = parse_error(MULTIPART, encode_form(encode_field("image", address)))
    assert (error.code, error.field) == ("invalid_request", "image")
    assert "-F image=@FILE" in error.message


def test_path_with_a_file_content_type_is_only_bytes() -> None:
    part = encode_field("image", b"/etc/passwd", "Content-Type: image/png")
    assert parse_form(part) == {"image": b"/etc/passwd"}


def test_unknown_field_error_lists_the_accepted_fields() -> None:
    error = parse_error(MULTIPART, encode_form(encode_field("video", b"x")))
    assert (error.code, error.field) == ("unknown_field", "video")
    assert "audio, image, text, clip" in error.message


def test_repeated_text_field_is_rejected() -> None:
    error = parse_error(MULTIPART, encode_form(TEXT, TEXT))
    assert (error.code, error.field) == ("invalid_request", "text")


@pytest.mark.parametrize("name", MALFORMED_FORMS)
def test_malformed_form_is_an_invalid_request(name: str) -> None:
    assert parse_error(*MALFORMED_FORMS[name]).code == "invalid_request"


def test_closing_boundary_alone_is_an_empty_sample() -> None:
    assert parse_form() == {}


def test_paths_in_a_form_open_no_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    for body in (
        encode_form(encode_field("image", str(secret).encode())),
        encode_form(encode_file("image", str(secret), b"y")),
    ):
        try:
            sample = parse_body(MULTIPART, body, FIELDS)
        except InputError:
            continue
        assert sample == {"image": b"y"}
