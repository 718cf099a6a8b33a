"""The table of errors decides every status of an error response."""

from __future__ import annotations

import ast
from http import HTTPStatus
from pathlib import Path
from typing import get_args

import orjson
import pytest

from dimml.errors import InputError, InputErrorCode
from dimml.machine import SOURCE_ROOT
from serving.http.errors import ErrorCode, HttpError, find_error, input_error_response

ERRORS_FILE = SOURCE_ROOT / "serving/http/errors.py"
FILES = [*(SOURCE_ROOT / "serving").glob("*.py"), *ERRORS_FILE.parent.glob("*.py")]
STATUSES = {error.status for error in HttpError}


def test_table_has_every_error_code() -> None:
    assert {error.code for error in HttpError} == set(get_args(ErrorCode))


@pytest.mark.parametrize("code", get_args(InputErrorCode))
def test_input_error_has_the_response_of_its_code(code: InputErrorCode) -> None:
    response = input_error_response(InputError(code, "broken", "image"))
    problem = {"code": code, "message": "broken", "field": "image"}
    assert orjson.loads(response.body) == {"error": problem}
    assert response.status_code == HttpError[code.upper()].status


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_only_the_table_holds_the_status_of_an_error(path: Path) -> None:
    literals = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    }
    assert not literals & STATUSES or path == ERRORS_FILE


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, HttpError.BAD_REQUEST),
        (401, HttpError.KEY_MISSING),
        (418, HttpError.BAD_REQUEST),
        (422, HttpError.INVALID_REQUEST),
        (429, HttpError.RATE_LIMITED),
        (502, HttpError.INTERNAL),
        (503, HttpError.OVERLOADED),
    ],
)
def test_status_stands_for_its_first_error(status: int, error: HttpError) -> None:
    assert find_error(status) is error


def test_overloaded_response_says_when_to_retry() -> None:
    assert HttpError.OVERLOADED.response().headers["retry-after"] == "1"
    response = HttpError.RATE_LIMITED.response(headers={"retry-after": "7"})
    assert response.headers.getlist("retry-after") == ["7"]


def test_unauthorized_response_names_the_scheme() -> None:
    assert HttpError.KEY_MISSING.response().headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("error", HttpError, ids=lambda error: error.name)
def test_every_error_has_a_text_for_any_request(error: HttpError) -> None:
    assert HTTPStatus(error.status)
    assert "{" not in error.message.format(path="/x", method="PUT", timeout=7)


def test_status_line_has_the_reason_phrase() -> None:
    assert HttpError.HEAD_TOO_LARGE.status_line == b"HTTP/1.1 431 Request Header Fields Too Large"
