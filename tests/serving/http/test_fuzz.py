"""Random and damaged input: the response is a prediction or a client error.

These tests try few examples, the same ones in each run; `make fuzz` tries many more.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from python_multipart.multipart import MultipartParser, parse_options_header
from schemathesis import checks
from starlette.testclient import TestClient

from benchmarks.http.load import BOUNDARY, CONTENT_TYPE, form
from benchmarks.robustness.mutation import TEXTS, examples, images, mutate, recordings, upload
from dimml import Predictor
from dimml.errors import InputError
from dimml.modalities import Kind, Limits
from serving.http.multipart import read_parts
from serving.http.parsing import (
    JSON,
    MAX_PARTS,
    URLENCODED,
    parse_body,
)
from serving.http.query import parse_query
from tests.serving.http.bodies import FIELDS

VALUES = (bytes, str, list, type(None))
MAX_PART_BYTES = 10_000
CLIENT_ERRORS = [400, 413, 415, 422]


def fuzz(count: int, seconds: float = 5) -> Any:
    """Return the settings of a property: the number of examples and the time limit of each."""
    return settings(
        max_examples=examples(count),
        deadline=timedelta(seconds=seconds),
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


seeds = st.integers(0, 2**63)
names = st.one_of(st.sampled_from([*FIELDS, "Text", "video"]), st.text(max_size=40))
latin_1 = st.text(st.characters(max_codepoint=255), max_size=60)
printable = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\\0'), min_size=1)
well_formed = st.lists(
    st.tuples(printable, st.one_of(st.none(), printable), st.binary(max_size=300)),
    max_size=6,
)


def parse(content_type: str, body: bytes) -> dict[str, Any] | InputError:
    try:
        return dict(parse_body(content_type, body, FIELDS, MAX_PARTS, MAX_PART_BYTES))
    except InputError as error:
        return error


def assert_is_valid(outcome: dict[str, Any] | InputError) -> None:
    """Check that a sample has no str for a file, or that an error can be sent."""
    if isinstance(outcome, InputError):
        json.dumps([outcome.code, outcome.message, outcome.field]).encode()
        str(outcome).encode()
        assert len(outcome.message) < 500
        return
    assert set(outcome) <= set(FIELDS)
    for name, value in outcome.items():
        assert isinstance(value, VALUES)
        assert FIELDS[name].is_text or not isinstance(value, str)


class TestParsing:
    @fuzz(400)
    @given(seed=seeds)
    def test_damaged_form_is_a_sample_or_an_error(self, seed: int) -> None:
        text = mutate(TEXTS[seed % len(TEXTS)].encode(), seed)
        valid = form([("text", None, text), ("image", "a.png", b"\x89PNG"), ("audio", "", b"")])
        assert_is_valid(parse(CONTENT_TYPE, mutate(valid, seed)))

    @fuzz(300)
    @given(content_type=latin_1, body=st.binary(max_size=200))
    @example(content_type="multipart/form-data; boundary*=utf-8''x", body=b"--x--")
    def test_any_content_type_is_a_sample_or_an_error(self, content_type: str, body: bytes) -> None:
        for kind in (content_type, "multipart/form-data;" + content_type):
            assert_is_valid(parse(kind, body))

    @fuzz(200)
    @given(value=st.text(max_size=80), boundary=st.text("ab-'\"; =", max_size=12))
    def test_any_part_header_is_a_sample_or_an_error(self, value: str, boundary: str) -> None:
        head = f"Content-Disposition: {value}".encode("utf-8", "replace")
        body = f"--{boundary}\r\n".encode() + head + f"\r\n\r\nx\r\n--{boundary}--".encode()
        assert_is_valid(parse(f"multipart/form-data; boundary={boundary}", body))

    @fuzz(300)
    @given(parts=well_formed)
    def test_well_formed_form_is_read_without_loss(
        self, parts: list[tuple[str, str | None, bytes]]
    ) -> None:
        read = read_parts(CONTENT_TYPE, form(parts), MAX_PARTS, MAX_PART_BYTES)
        assert [(part.name, part.filename, part.content) for part in read] == parts

    @fuzz(300)
    @given(parts=well_formed, seed=st.one_of(st.none(), seeds))
    def test_forms_are_read_as_python_multipart_reads_them(
        self, parts: list[tuple[str, str | None, bytes]], seed: int | None
    ) -> None:
        parts = [
            (name, file, mutate(content, seed) if seed else content)
            for name, file, content in parts
        ]
        body = form(parts)
        read = read_parts(CONTENT_TYPE, body, 16, 10**6)
        assert [(part.name, part.filename, part.content) for part in read] == reference_parts(body)

    @fuzz(300)
    @given(
        document=st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
            lambda inner: st.one_of(st.lists(inner), st.dictionaries(names, inner)),
            max_leaves=8,
        ),
        seed=st.one_of(st.none(), seeds),
    )
    def test_any_json_is_a_sample_or_an_error(self, document: Any, seed: int | None) -> None:
        body = json.dumps(document).encode()
        assert_is_valid(parse(JSON, body if seed is None else mutate(body, seed)))

    @fuzz(300)
    @given(body=st.one_of(st.binary(), st.text(string.printable).map(str.encode)))
    def test_any_urlencoded_body_is_a_sample_or_an_error(self, body: bytes) -> None:
        for prefix in (b"", b"text=", b"image="):
            assert_is_valid(parse(URLENCODED, prefix + body))

    @fuzz(300)
    @given(
        query=st.one_of(st.text(st.characters(max_codepoint=255)), st.text("on_=&%unreadablfts01"))
    )
    def test_any_query_is_a_setting_or_an_error(self, query: str) -> None:
        for text in (query, "on_unreadable=" + query):
            try:
                assert parse_query(text).on_unreadable in ("error", "absent")
            except InputError as error:
                assert_is_valid(error)


def reference_parts(body: bytes) -> list[tuple[str, str | None, bytes]]:
    """Return the name, file name and content of each part, as python-multipart reads them."""
    parts: list[tuple[str, str | None, bytes]] = []
    header, content = bytearray(), bytearray()

    def begin() -> None:
        header.clear()
        content.clear()

    def end() -> None:
        _, options = parse_options_header(bytes(header))
        file = options.get(b"filename")
        name = options[b"name"].decode()
        parts.append((name, None if file is None else file.decode(), bytes(content)))

    parser = MultipartParser(
        BOUNDARY.encode(),
        {
            "on_part_begin": begin,
            "on_header_value": lambda data, start, stop: header.extend(data[start:stop]),
            "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
            "on_part_end": end,
        },
    )
    parser.write(body)
    parser.finalize()
    return parts


@pytest.fixture(scope="module")
def kinds(tiny_bundle: Path) -> dict[str, Kind]:
    return dict(Predictor.load(tiny_bundle, "cpu", limits=Limits(pixels=10**6, seconds=20)).kinds)


@pytest.fixture(scope="module")
def clip(frames_bundle: Path) -> Kind:
    return Predictor.load(frames_bundle, "cpu", limits=Limits(pixels=10**6)).kinds["clip"]


def assert_decodes_or_raises(kind: Kind, value: bytes | str) -> None:
    try:
        raw = kind.decode(value)
    except InputError as error:
        assert_is_valid(error)
    else:
        kind.preprocess(raw)
        assert all(isinstance(warning, str) for warning in kind.warnings(raw))


class TestDecoding:
    @fuzz(800)
    @given(name=st.sampled_from(sorted(images())), seed=seeds)
    def test_damaged_image_is_decoded_or_rejected(
        self, kinds: Any, clip: Kind, name: str, seed: int
    ) -> None:
        damaged = mutate(images()[name], seed, tuple(images().values()))
        assert_decodes_or_raises(kinds["image"], damaged)
        assert_decodes_or_raises(clip, damaged)

    @fuzz(800)
    @given(name=st.sampled_from(sorted(recordings())), seed=seeds)
    def test_damaged_recording_is_decoded_or_rejected(
        self, kinds: Any, name: str, seed: int
    ) -> None:
        damaged = mutate(recordings()[name], seed, tuple(recordings().values()))
        assert_decodes_or_raises(kinds["audio"], damaged)

    @fuzz(400)
    @given(text=st.one_of(st.text(), st.text(st.characters(categories=["Mn", "Cs", "Cf", "Zs"]))))
    def test_any_text_is_decoded_or_rejected(self, kinds: Any, text: str) -> None:
        assert_decodes_or_raises(kinds["text"], text)

    @fuzz(300)
    @given(seed=seeds)
    def test_damaged_text_is_decoded_or_rejected(self, kinds: Any, seed: int) -> None:
        damaged = mutate(TEXTS[seed % len(TEXTS)].encode(), seed)
        assert_decodes_or_raises(kinds["text"], damaged)


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, request_log=0) as client:
        yield client


class TestHttp:
    @fuzz(300, seconds=10)
    @given(seed=seeds, query=st.sampled_from(["", "?on_unreadable=absent"]))
    def test_damaged_upload_is_a_prediction_or_a_client_error(
        self, client: TestClient, seed: int, query: str
    ) -> None:
        body, headers = upload(seed), {"Content-Type": CONTENT_TYPE}
        response = client.post("/predict" + query, content=body, headers=headers)
        assert response.status_code in (200, *CLIENT_ERRORS)
        assert ("error" in response.json()) == (response.status_code != 200)

    @pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
    def test_responses_conform_to_the_openapi_document(self, client: TestClient, mode: Any) -> None:
        document = client.get("/openapi.json").json()
        OpenAPIV31SpecValidator(document).validate()
        operation = schemathesis.openapi.from_dict(document)["/predict"]["POST"]
        statuses: set[int] = set()

        @fuzz(40, seconds=10)
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            statuses.add(send_case(client, case))

        run()
        assert statuses & {200, *CLIENT_ERRORS}


def send_case(client: TestClient, case: Any) -> int:
    """Send a generated case, check the response against the document, and return its status."""
    arguments = case.as_transport_kwargs(base_url="http://testserver")
    arguments.pop("allow_redirects", None)
    request = requests.Request(**arguments).prepare()
    response = client.request(
        str(request.method), str(request.url), content=request.body, headers=dict(request.headers)
    )
    case.validate_response(
        schemathesis.Response.from_httpx(response, verify=False),
        checks=[
            checks.not_a_server_error,
            *checks.CHECKS.get_by_names(
                [
                    "status_code_conformance",
                    "content_type_conformance",
                    "response_schema_conformance",
                ]
            ),
        ],
    )
    return int(response.status_code)
