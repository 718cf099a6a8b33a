"""Text of reports: Markdown that appears as written, tables, and lists in words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LISTED = 8
"""How many items of a list a sentence names."""
NOT_MEASURED = "-"
"""The cell of a figure that was not measured."""


class Bold(str):
    """Text that Markdown shows in bold."""

    __slots__ = ()


def escape(text: str) -> str:
    """Return text so that Markdown shows it as written, in one line; `Bold` text in bold."""
    flat = " ".join(text.split())
    escaped = re.sub(r"([\\`*<\[\]|~&$])", r"\\\1", flat)
    # An underscore inside a word has no meaning in Markdown, so names such as `joint_dropout` stay
    # readable in the source.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return f"**{escaped}**" if isinstance(text, Bold) and escaped else escaped


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """Return a table whose first column names the rows.

    Args:
        header: The title of each column.
        rows: The cells, as many as the header has.
        numbers: Whether the other columns hold numbers, which are aligned to the right.
    """
    rule = "|---" + ("|--:" if numbers else "|---") * (len(header) - 1) + "|"
    first, *others = (f"| {' | '.join(map(escape, cells))} |" for cells in (header, *rows))
    return "\n".join([first, rule, *others])


def bullets(items: Iterable[str]) -> str:
    """Return a list with one line per item."""
    return "\n".join(f"- {escape(item)}" for item in items)


def short_list(items: Iterable[str]) -> str:
    """Return items in one line, the first few of them: "a, b and 3 others"."""
    items = list(items)
    others = len(items) - LISTED
    listed = ", ".join(items[:LISTED])
    if others > 0:
        listed += f" and {others} other{'s' if others > 1 else ''}"
    return listed


def number_ranges(numbers: Iterable[int]) -> str:
    """Return numbers in words, with the ends of each run of three or more: "0 to 4, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = (f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
    return ", ".join(shown)


def setting_list(settings: Mapping[str, Any]) -> str:
    """Return settings in one line, nested ones in brackets."""
    return ", ".join(
        f"{key} ({setting_list(value)})"
        if isinstance(value, Mapping)
        else f"{key} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in settings.items()
    )
