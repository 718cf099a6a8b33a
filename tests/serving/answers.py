"""Answers of the service, and how to compare them."""

from __future__ import annotations

from typing import Any

import pytest


def error_of(answer: Any) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"code", "message", "field"}
    return dict(answer.json()["error"])


def assert_same(first: Any, second: Any) -> None:
    """Equal answers, numbers within 1e-5."""
    if isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-5)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert first == second
