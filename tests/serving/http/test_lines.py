"""Requests of many samples, one on each line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.batching import Batcher
from serving.http.lines import is_lines, split_lines
from tests.serving.http.line_requests import answers_of, codes_of, encode_lines, post
from tests.serving.media import PNG, to_base64
from tests.serving.responses import assert_same, metric_of

MAX_BODY_BYTES, MAX_LINES = 20_000, 50
TEXTS = ["seven", "two", "one two three", "eight"]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/x-ndjson", True),
        (b"Application/JSONL; charset=utf-8", True),
        (b"application/ndjson", True),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_content_type_decides_whether_a_request_has_lines(
    content_type: bytes, expected: bool
) -> None:
    assert is_lines(content_type) == expected


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_are_split_however_they_arrive(size: int) -> None:
    body = b"ab\r\n\n" + b"x" * 40 + b"\ncd"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def split() -> list[bytes]:
        return [line async for line in split_lines(chunks(), 10)]

    first, blank, long, last = asyncio.run(split())
    assert (first, blank, last) == (b"ab\r", b"", b"cd")
    assert 10 < len(long) <= 40


@pytest.fixture(scope="class")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    limits = {"max_body_bytes": MAX_BODY_BYTES, "max_lines": MAX_LINES}
    with open_client(tiny_bundle, **limits) as client:
        yield client


class TestAnswers:
    @pytest.mark.parametrize("path", ["/predict", "/predict/"])
    def test_answers_equal_those_of_single_requests(self, client: TestClient, path: str) -> None:
        samples = [*({"text": text} for text in TEXTS), {"image": to_base64(PNG), "text": "two"}]
        answers = answers_of(post(client, encode_lines(*samples), path))
        for answer, sample in zip(answers, samples, strict=True):
            assert_same(answer, client.post("/predict", json=sample).json())

    def test_bad_line_does_not_fail_its_neighbours(self, client: TestClient) -> None:
        bad = {
            b'{"text": ': "invalid_request",
            b"\xff\xfe": "invalid_request",
            b'["two"]': "invalid_request",
            b'{"video": "x"}': "unknown_field",
            b"{}": "no_modality",
            b'{"image": "AAAA"}': "unsupported_type",
            b'{"text": "' + b"x" * MAX_BODY_BYTES + b'"}': "too_large",
        }
        content = b"".join(encode_lines({"text": "two"}) + line + b"\n" for line in bad)
        expected = [code for error in bad.values() for code in (None, error)]
        assert codes_of(post(client, content)) == expected

    def test_blank_lines_are_skipped_and_the_last_needs_no_line_break(
        self, client: TestClient
    ) -> None:
        content = b'\n \r\n{"text": "two"}\r\n\n\n{"text": "seven"}'
        assert codes_of(post(client, content)) == [None, None]
        assert codes_of(post(client, b"")) == codes_of(post(client, b"\n\n")) == []

    def test_line_may_begin_with_a_byte_order_mark(self, client: TestClient) -> None:
        assert codes_of(post(client, b'\xef\xbb\xbf{"text": "two"}\n')) == [None]

    def test_body_may_be_larger_than_one_line_may_be(self, client: TestClient) -> None:
        content = encode_lines(*[{"text": "two " * 200}] * 40)
        assert len(content) > MAX_BODY_BYTES
        assert codes_of(post(client, content)) == [None] * 40

    def test_lines_over_their_number_are_not_answered(self, client: TestClient) -> None:
        content = encode_lines(*[{"text": "two"}] * (MAX_LINES + 10))
        answers = answers_of(post(client, content))
        assert len(answers) == MAX_LINES + 1
        assert answers[-1]["error"]["code"] == "too_large"
        assert f"{MAX_LINES} lines" in answers[-1]["error"]["message"]

    def test_query_applies_to_every_line(self, client: TestClient) -> None:
        content = encode_lines(*[{"text": "two", "image": to_base64(b"broken" * 20)}] * 2)
        assert codes_of(post(client, content, "/predict?on_unreadable=absent")) == [None, None]
        assert codes_of(post(client, content)) == ["unsupported_type"] * 2

    def test_invalid_query_or_compression_fails_the_request(self, client: TestClient) -> None:
        content = encode_lines({"text": "two"})
        response = post(client, content, "/predict?on_unreadable=maybe")
        assert (response.status_code, response.json()["error"]["field"]) == (422, "on_unreadable")
        response = post(client, content, **{"Content-Encoding": "gzip"})
        assert response.status_code == 415

    def test_lines_are_counted_by_code_and_the_request_once(self, client: TestClient) -> None:
        names = (
            'dimml_lines_total{code="ok"}',
            'dimml_lines_total{code="no_modality"}',
            'dimml_requests_total{status="200"}',
            "dimml_request_seconds_count",
        )
        before = [metric_of(client, name) for name in names]
        post(client, encode_lines({"text": "two"}, {}, {"text": "one"}))
        ok, bad, requests, timed = (
            metric_of(client, name) - old for name, old in zip(names, before, strict=True)
        )
        assert (ok, bad) == (2, 1)
        # The requests for the metrics are timed, this request is only counted.
        assert requests == timed + 1


def test_log_has_one_record_with_the_number_of_lines(
    tiny_bundle: Path, open_client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_client(tiny_bundle) as client:
        post(client, encode_lines({"text": "two"}, {}, {"text": "one"}))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    [record] = [json.loads(line) for line in lines]
    assert (record["status"], record["lines"], record["errors"]) == (200, 3, 1)
    assert record["bytes_out"] > 500


def test_key_and_rate_count_for_the_request(tiny_bundle: Path, open_client: Any) -> None:
    key = "correct-horse-battery-staple"
    content = encode_lines(*[{"text": "two"}] * 5)
    with open_client(tiny_bundle, api_keys=key, rate_limit=0.01) as client:
        statuses = [post(client, content, **h).status_code for h in ({}, *[{"X-API-Key": key}] * 2)]
    assert statuses == [401, 200, 429]


def test_failed_batch_is_an_error_of_its_lines(
    tiny_bundle: Path, open_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(batcher: Any, items: list[Any]) -> list[Any]:
        return [RuntimeError("secret") for _ in items]

    monkeypatch.setattr(Batcher, "_compute_outcomes", fail)
    with open_client(tiny_bundle) as client:
        response = post(client, encode_lines({"text": "two"}, {"text": "one"}))
    assert codes_of(response) == ["internal", "internal"]
    assert "secret" not in response.text
