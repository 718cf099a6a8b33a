"""What a response of the service holds, and how to compare two responses."""

from __future__ import annotations

from typing import Any

import pytest


def error_of(response: Any) -> dict[str, Any]:
    """Return the error of a response, after a check of its form."""
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"code", "message", "field"}
    return dict(error)


def metric_of(client: Any, name: str) -> float:
    """Return the value of a metric, with its labels, as `/metrics` shows it; 0 if it is absent."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split()[0] == name)


def assert_same(first: Any, second: Any) -> None:
    """Check that two JSON documents are equal, their numbers within 1e-5."""
    if isinstance(first, float):
        assert first == pytest.approx(second, abs=1e-5)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert first == second
