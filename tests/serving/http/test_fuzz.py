"""Whatever arrives, the answer is a prediction or an error of the client's.

Few and always the same examples here; `make fuzz` tries many more.
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
    ModalityField,
    parse_body,
    parse_query,
)

FIELDS = {
    "audio": ModalityField(is_text=False),
    "image": ModalityField(is_text=False),
    "text": ModalityField(is_text=True),
    "clip": ModalityField(is_text=False, most=3),
}
VALUES = (bytes, str, list, type(None))
MOST_BYTES = 10_000
PROBLEMS = [400, 413, 415, 422]


def fuzz(count: int, seconds: float = 5) -> Any:
    """Settings of a property: `count` examples, the same ones in each run, each within seconds."""
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


def outcome_of(content_type: str, body: bytes) -> dict[str, Any] | InputError:
    try:
        return dict(parse_body(content_type, body, FIELDS, MAX_PARTS, MOST_BYTES))
    except InputError as error:
        return error


def assert_is_an_answer(outcome: dict[str, Any] | InputError) -> None:
    """A sample whose file modalities hold no str, or an error that can be sent."""
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
    def test_a_damaged_form_is_a_sample_or_an_error(self, seed: int) -> None:
        text = mutate(TEXTS[seed % len(TEXTS)].encode(), seed)
        good = form([("text", None, text), ("image", "a.png", b"\x89PNG"), ("audio", "", b"")])
        assert_is_an_answer(outcome_of(CONTENT_TYPE, mutate(good, seed)))

    @fuzz(300)
    @given(content_type=latin_1, body=st.binary(max_size=200))
    @example(content_type="multipart/form-data; boundary*=utf-8''x", body=b"--x--")
    def test_any_content_type_is_read(self, content_type: str, body: bytes) -> None:
        for kind in (content_type, "multipart/form-data;" + content_type):
            assert_is_an_answer(outcome_of(kind, body))

    @fuzz(200)
    @given(value=st.text(max_size=80), boundary=st.text("ab-'\"; =", max_size=12))
    def test_any_header_of_a_part_is_read(self, value: str, boundary: str) -> None:
        head = f"Content-Disposition: {value}".encode("utf-8", "replace")
        body = f"--{boundary}\r\n".encode() + head + f"\r\n\r\nx\r\n--{boundary}--".encode()
        assert_is_an_answer(outcome_of(f"multipart/form-data; boundary={boundary}", body))

    @fuzz(300)
    @given(parts=well_formed)
    def test_a_well_formed_form_comes_back_as_it_was(
        self, parts: list[tuple[str, str | None, bytes]]
    ) -> None:
        read = read_parts(CONTENT_TYPE, form(parts), MAX_PARTS, MOST_BYTES)
        assert [(part.name, part.filename, part.content) for part in read] == parts

    @fuzz(300)
    @given(parts=well_formed, seed=st.one_of(st.none(), seeds))
    def test_what_is_read_is_what_python_multipart_reads(
        self, parts: list[tuple[str, str | None, bytes]], seed: int | None
    ) -> None:
        parts = [(name, file, mutate(held, seed) if seed else held) for name, file, held in parts]
        body = form(parts)
        ours = [(p.name, p.filename, p.content) for p in read_parts(CONTENT_TYPE, body, 16, 10**6)]
        assert ours == reference(body)

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
        assert_is_an_answer(outcome_of(JSON, body if seed is None else mutate(body, seed)))

    @fuzz(300)
    @given(body=st.one_of(st.binary(), st.text(string.printable).map(str.encode)))
    def test_any_urlencoded_body_is_a_sample_or_an_error(self, body: bytes) -> None:
        for prefix in (b"", b"text=", b"image="):
            assert_is_an_answer(outcome_of(URLENCODED, prefix + body))

    @fuzz(300)
    @given(query=st.one_of(st.text(st.characters(max_codepoint=255)), st.text("on_=&%unreadable")))
    def test_any_query_is_read(self, query: str) -> None:
        for text in (query, "on_unreadable=" + query):
            try:
                assert parse_query(text) in ("error", "absent")
            except InputError as error:
                assert_is_an_answer(error)


def reference(body: bytes) -> list[tuple[str, str | None, bytes]]:
    """The parts of a body as python-multipart's own parser reads them."""
    parts: list[tuple[str, str | None, bytes]] = []
    header, held = bytearray(), bytearray()

    def begin() -> None:
        header.clear()
        held.clear()

    def end() -> None:
        _, options = parse_options_header(bytes(header))
        file = options.get(b"filename")
        name = options[b"name"].decode()
        parts.append((name, None if file is None else file.decode(), bytes(held)))

    parser = MultipartParser(
        BOUNDARY.encode(),
        {
            "on_part_begin": begin,
            "on_header_value": lambda data, start, stop: header.extend(data[start:stop]),
            "on_part_data": lambda data, start, stop: held.extend(data[start:stop]),
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


def assert_decodes_or_refuses(kind: Kind, value: bytes | str) -> None:
    try:
        raw = kind.decode(value)
    except InputError as error:
        assert_is_an_answer(error)
    else:
        kind.preprocess(raw)
        assert all(isinstance(warning, str) for warning in kind.warnings(raw))


class TestDecoding:
    @fuzz(800)
    @given(name=st.sampled_from(sorted(images())), seed=seeds)
    def test_a_damaged_picture(self, kinds: Any, clip: Kind, name: str, seed: int) -> None:
        damaged = mutate(images()[name], seed, tuple(images().values()))
        assert_decodes_or_refuses(kinds["image"], damaged)
        assert_decodes_or_refuses(clip, damaged)

    @fuzz(800)
    @given(name=st.sampled_from(sorted(recordings())), seed=seeds)
    def test_a_damaged_recording(self, kinds: Any, name: str, seed: int) -> None:
        damaged = mutate(recordings()[name], seed, tuple(recordings().values()))
        assert_decodes_or_refuses(kinds["audio"], damaged)

    @fuzz(400)
    @given(text=st.one_of(st.text(), st.text(st.characters(categories=["Mn", "Cs", "Cf", "Zs"]))))
    def test_any_text(self, kinds: Any, text: str) -> None:
        assert_decodes_or_refuses(kinds["text"], text)

    @fuzz(300)
    @given(seed=seeds)
    def test_damaged_text(self, kinds: Any, seed: int) -> None:
        damaged = mutate(TEXTS[seed % len(TEXTS)].encode(), seed)
        assert_decodes_or_refuses(kinds["text"], damaged)


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, request_log=0) as client:
        yield client


class TestHttp:
    @fuzz(300, seconds=10)
    @given(seed=seeds, query=st.sampled_from(["", "?on_unreadable=absent"]))
    def test_a_damaged_upload_is_no_failure_of_ours(
        self, client: TestClient, seed: int, query: str
    ) -> None:
        body, headers = upload(seed), {"Content-Type": CONTENT_TYPE}
        answer = client.post("/predict" + query, content=body, headers=headers)
        assert answer.status_code in (200, *PROBLEMS)
        assert ("error" in answer.json()) == (answer.status_code != 200)

    @pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
    def test_the_service_is_as_its_document_says(self, client: TestClient, mode: Any) -> None:
        document = client.get("/openapi.json").json()
        OpenAPIV31SpecValidator(document).validate()
        operation = schemathesis.openapi.from_dict(document)["/predict"]["POST"]
        seen: set[int] = set()

        @fuzz(40, seconds=10)
        @given(case=operation.as_strategy(generation_mode=mode))
        def run(case: Any) -> None:
            seen.add(ask_as_generated(client, case))

        run()
        assert seen & {200, *PROBLEMS}


def ask_as_generated(client: TestClient, case: Any) -> int:
    """Sends a case that schemathesis made, and holds the answer against the document."""
    arguments = case.as_transport_kwargs(base_url="http://testserver")
    arguments.pop("allow_redirects", None)
    sent = requests.Request(**arguments).prepare()
    answer = client.request(
        str(sent.method), str(sent.url), content=sent.body, headers=dict(sent.headers)
    )
    case.validate_response(
        schemathesis.Response.from_httpx(answer, verify=False),
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
    return int(answer.status_code)
