"""Markdown for reports: text that appears as written, and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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
