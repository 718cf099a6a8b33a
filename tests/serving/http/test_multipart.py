from __future__ import annotations

from pathlib import Path

import pytest

from dimml.errors import InputError
from serving.http.parsing import MAX_PARTS, parse_body
from tests.serving.http.bodies import (
    FIELD,
    FIELDS,
    FILE,
    MULTIPART,
    encode_form,
    encode_part,
    parse_error,
    parse_form,
)


class TestMultipart:
    def test_files_are_bytes_and_text_is_str(self) -> None:
        sample = parse_form(
            encode_part(
                FILE.format("audio", "a.wav"), b"\x00\r\n--xy\xff", "Content-Type: audio/wav"
            ),
            encode_part(FIELD.format("text"), "sieben 7️⃣".encode()),
        )
        assert sample == {"audio": b"\x00\r\n--xy\xff", "text": "sieben 7️⃣"}

    @pytest.mark.parametrize("text", ["123", "null", "true", "[1]", "\x00"])
    def test_text_stays_as_it_is_written(self, text: str) -> None:
        assert parse_form(encode_part(FIELD.format("text"), text.encode())) == {"text": text}

    @pytest.mark.parametrize(
        "empty",
        [
            encode_part(FIELD.format("image"), b""),
            encode_part(FIELD.format("image"), b"  \n"),
            encode_part(FILE.format("image", ""), b"", "Content-Type: application/octet-stream"),
        ],
        ids=["field", "blank field", "file input left empty"],
    )
    def test_a_part_with_neither_name_nor_bytes_is_absent(self, empty: bytes) -> None:
        assert parse_form(empty) == {"image": None}

    def test_a_named_file_of_no_bytes_is_passed_on_for_dimml_to_refuse(self) -> None:
        assert parse_form(encode_part(FILE.format("image", "a.png"), b"")) == {"image": b""}
        assert parse_form(encode_part(FILE.format("text", "a.txt"), b"")) == {"text": b""}

    def test_a_file_for_text_is_its_content(self) -> None:
        assert parse_form(encode_part(FILE.format("text", "note.txt"), b"two")) == {"text": "two"}

    def test_text_that_is_not_utf8_is_passed_on_for_dimml_to_refuse(self) -> None:
        assert parse_form(encode_part(FIELD.format("text"), b"\xff\xfe")) == {"text": b"\xff\xfe"}

    def test_a_part_typed_as_a_file_needs_no_file_name(self) -> None:
        sample = parse_form(
            encode_part(FIELD.format("image"), b"\x89PNG", "Content-Type: image/png")
        )
        assert sample == {"image": b"\x89PNG"}

    def test_several_frames_make_a_list(self) -> None:
        frames = [encode_part(FILE.format("clip", f"{i}.png"), bytes([i])) for i in range(3)]
        assert parse_form(*frames) == {"clip": [b"\x00", b"\x01", b"\x02"]}
        assert parse_form(frames[1]) == {"clip": b"\x01"}

    def test_one_frame_too_many_is_refused(self) -> None:
        frames = [encode_part(FILE.format("clip", "f.png"), b"x")] * 4
        error = parse_error(MULTIPART, encode_form(*frames))
        assert (error.code, error.field) == ("invalid_request", "clip")

    @pytest.mark.parametrize("value", [b"http://127.0.0.1/a.png", b"/etc/passwd", b"file:///x"])
    def test_an_address_in_place_of_a_file_is_refused(self, value: bytes) -> None:
        error = parse_error(MULTIPART, encode_form(encode_part(FIELD.format("image"), value)))
        assert (error.code, error.field) == ("invalid_request", "image")
        assert "-F image=@FILE" in error.message

    def test_an_address_typed_as_a_file_is_only_bytes(self) -> None:
        value = encode_part(FIELD.format("image"), b"/etc/passwd", "Content-Type: image/png")
        assert parse_form(value) == {"image": b"/etc/passwd"}

    def test_an_unknown_field_is_refused_with_those_accepted(self) -> None:
        error = parse_error(MULTIPART, encode_form(encode_part(FIELD.format("video"), b"x")))
        assert (error.code, error.field) == ("unknown_field", "video")
        assert "audio, image, text, clip" in error.message

    def test_a_field_given_twice_is_refused(self) -> None:
        error = parse_error(MULTIPART, encode_form(*[encode_part(FIELD.format("text"), b"x")] * 2))
        assert (error.code, error.field) == ("invalid_request", "text")

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data", encode_form(encode_part(FIELD.format("text"), b"x"))),
            (
                "multipart/form-data; boundary=",
                encode_form(encode_part(FIELD.format("text"), b"x")),
            ),
            (f"multipart/form-data; boundary={'x' * 300}", b"--x"),
            (MULTIPART, encode_form(encode_part(FIELD.format("text"), b"x"))[:-6]),
            (MULTIPART, encode_part(FIELD.format("text"), b"cut off")[:-4]),
            (MULTIPART, b"no multipart at all"),
            (MULTIPART, encode_form(encode_part("attachment", b"x"))),
            (MULTIPART, encode_form(encode_part("form-data", b"x"))),
            (MULTIPART, encode_form(b"--xyz\r\n\r\nno headers\r\n")),
            (MULTIPART, encode_form(encode_part(FIELD.format("text"), b"x", *["X: y"] * 50))),
            (MULTIPART, encode_form(encode_part(FIELD.format("text"), b"x", "X: " + "y" * 10_000))),
            (
                MULTIPART,
                encode_form(
                    encode_part(FIELD.format("text"), b"eA==", "Content-Transfer-Encoding: base64")
                ),
            ),
            (MULTIPART, encode_form(*[encode_part(FIELD.format("clip"), b"")] * (MAX_PARTS + 3))),
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
        assert parse_error(content_type, body).code == "invalid_request"

    def test_a_closing_boundary_alone_is_an_empty_sample(self) -> None:
        assert parse_form() == {}


def test_nothing_a_client_sends_opens_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    for body in (
        encode_form(encode_part(FIELD.format("image"), str(secret).encode())),
        encode_form(encode_part(FILE.format("image", str(secret)), b"y")),
    ):
        try:
            sample = parse_body(MULTIPART, body, FIELDS)
        except InputError:
            continue
        assert sample == {"image": b"y"}
