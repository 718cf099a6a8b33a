"""The pictures of the README."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.pictures import METHODS, PICTURE, draw, missing_curves
from benchmarks.results import RESULTS


def one_set(**accuracies: float) -> dict[str, Any]:
    """Return a set whose methods lose 0.2 at a rate of 0.5."""
    return {
        "methods": {
            name: {"missing": {"0.0": {"mean": value}, "0.5": {"mean": value - 0.2}}}
            for name, value in accuracies.items()
        }
    }


def test_curve_is_the_mean_over_sets() -> None:
    curves = missing_curves({"a": one_set(dimml=0.9, ume=0.8), "b": one_set(dimml=0.7)})
    assert list(curves) == ["dimml"]
    assert curves["dimml"] == pytest.approx({0.0: 0.8, 0.5: 0.6})


def test_method_that_a_set_lacks_has_no_curve() -> None:
    sets = {"a": one_set(dimml=0.9, joint=0.8), "b": one_set(dimml=0.7)}
    assert "joint" not in missing_curves(sets)


def test_committed_picture_is_small_and_shows_every_method() -> None:
    sets = json.loads((RESULTS / "panel.json").read_text())["sets"]
    assert list(missing_curves(sets)) == list(METHODS)
    committed = PICTURE.read_text()
    assert len(committed) < 100_000
    lines = [count_lines(svg) for svg in (committed, draw(sets))]
    assert lines[0] == lines[1] > 2 * len(METHODS)


def count_lines(svg: str) -> int:
    """Return the number of lines that a picture draws; other details vary with matplotlib."""
    groups = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}g")
    return sum(group.get("id", "").startswith("line2d") for group in groups)
