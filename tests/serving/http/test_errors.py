"""The one table of HTTP errors."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import get_args

import pytest

from dimml.errors import InputError, InputErrorCode
from serving.http.errors import (
    STATUS_OF_CODE,
    STATUSES,
    Code,
    input_error_response,
    status_body,
)

DETAILS = {"path": "/x", "method": "PUT", "limit": 7, "rate": 2.0, "seconds": 1.0}


def test_every_input_error_has_a_status_in_the_table() -> None:
    assert set(STATUS_OF_CODE) == set(get_args(InputErrorCode))
    assert set(STATUS_OF_CODE.values()) <= set(STATUSES)


def test_every_code_of_the_contract_is_in_the_table() -> None:
    codes = {error.code for error in STATUSES.values()} | set(STATUS_OF_CODE)
    assert codes == set(get_args(Code))


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_is_one_of_http_and_has_a_text(status: int) -> None:
    assert 400 <= HTTPStatus(status) < 600
    error = json.loads(status_body(status, **DETAILS))["error"]
    assert error["code"] == STATUSES[status].code
    assert "{" not in error["message"]
    assert error["field"] is None


@pytest.mark.parametrize(("status", "code"), [(418, "invalid_request"), (502, "internal")])
def test_unknown_status_has_the_code_of_its_class(status: int, code: str) -> None:
    assert json.loads(status_body(status))["error"]["code"] == code


def test_input_error_keeps_its_code_message_and_field() -> None:
    response = input_error_response(InputError("too_large", "over the limit", "image"))
    assert response.status_code == 413
    error = json.loads(response.body)["error"]
    assert error == {"code": "too_large", "message": "over the limit", "field": "image"}
