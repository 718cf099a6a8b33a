"""Requests of JSON lines, and their answers."""

from __future__ import annotations

import json
from typing import Any

NDJSON = {"Content-Type": "application/x-ndjson"}


def encode_lines(*samples: object) -> bytes:
    return b"".join(json.dumps(sample).encode() + b"\n" for sample in samples)


def post(client: Any, content: Any, path: str = "/predict", **headers: str) -> Any:
    return client.post(path, content=content, headers={**NDJSON, **headers})


def answers_of(response: Any) -> list[dict[str, Any]]:
    """Return the answers of a response, after a check of its form."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def codes_of(response: Any) -> list[str | None]:
    return [answer.get("error", {"code": None})["code"] for answer in answers_of(response)]
