"""Compare the answers of two services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLERANCE = 1e-4


def differences(expected: Any, got: Any, where: str = "answer") -> list[str]:
    """Describe the differences of two JSON documents; numbers may differ by `TOLERANCE`."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        if list(expected) != list(got):
            return [f"{where} has the keys {list(got)}, not {list(expected)}"]
        return [
            text
            for key in expected
            for text in differences(expected[key], got[key], f"{where}.{key}")
        ]
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple):
        if len(expected) != len(got):
            return [f"{where} is {got}, not {expected}"]
        pairs = enumerate(zip(expected, got, strict=True))
        return [text for i, pair in pairs for text in differences(*pair, f"{where}[{i}]")]
    if _is_number(expected) and _is_number(got):
        # `<=`, because `>` would let a NaN pass.
        return [] if abs(expected - got) <= TOLERANCE else [f"{where} is {got}, not {expected}"]
    same = type(expected) is type(got) and expected == got
    return [] if same else [f"{where} is {got!r}, not {expected!r}"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
