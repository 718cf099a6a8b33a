"""Tables with a row per method, and how their figures are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.compare.page import Strong, Table
from train.compare.summary import MEASURES, PER_CENT, PLAIN, Scale, Summary

NOTHING = "-"


@dataclass(frozen=True)
class Column:
    """A figure of every method.

    Attributes:
        title: heads the column.
        figure: takes it over seeds from a method's part of the document.
        higher: whether more is better.
        scale: how it is written.
    """

    title: str
    figure: Callable[[Summary], Summary]
    higher: bool = True
    scale: Scale = PER_CENT


def measure_table(document: Summary, keys: Sequence[str]) -> Table:
    """The named ones of `MEASURES`."""
    columns = [
        Column(one.title, lambda method, key=key: method["measures"][key], one.higher, one.scale)
        for key in keys
        for one in [MEASURES[key]]
    ]
    return method_table(document, columns)


def method_table(document: Summary, columns: Sequence[Column]) -> Table:
    """A row per method; the best of a column as written, ties too, is bold."""
    methods = document["methods"]
    filled = [_cells(column, list(methods.values())) for column in columns]
    rows = [[name, *cells] for name, *cells in zip(methods, *filled, strict=True)]
    return Table(["method", *(column.title for column in columns)], rows)


def _cells(column: Column, methods: Sequence[Summary]) -> list[str]:
    found = [column.figure(method) for method in methods]
    means = [mean_text(one, column.scale) for one in found]
    known = [float(text) for text in means if text != NOTHING]
    best = (max if column.higher else min)(known, default=None)
    return [
        Strong(cell) if text != NOTHING and float(text) == best else cell
        for cell, text in zip((spread_text(one, column.scale) for one in found), means, strict=True)
    ]


def spread_text(spread: Summary, scale: Scale = PLAIN) -> str:
    """Mean ± standard deviation."""
    deviation = spread["std"]
    tail = "" if deviation is None else f" ± {scale.write(deviation)}"
    return mean_text(spread, scale) + tail


def mean_text(spread: Summary, scale: Scale = PLAIN) -> str:
    """The mean."""
    return NOTHING if spread["mean"] is None else scale.write(spread["mean"])


def plain_text(spread: Summary) -> str:
    """The mean with one digit after the point, or none."""
    return NOTHING if spread["mean"] is None else f"{spread['mean']:.1f}".removesuffix(".0")


def runs_text(values: Sequence[int]) -> str:
    """Numbers, runs of three and more by their ends: "0 to 4, 7"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    shown = [f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs]
    return ", ".join(shown)


def settings_text(table: Mapping[str, Any]) -> str:
    """A table of settings in one line; tables within it in brackets."""
    return ", ".join(
        f"{key} ({settings_text(value)})"
        if isinstance(value, Mapping)
        else f"{key} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in table.items()
    )
