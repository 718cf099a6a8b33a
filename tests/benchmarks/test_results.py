"""Result files of benchmarks, and the figures and tables in their reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.accuracy import interaction_report
from benchmarks.http import report as http_report
from benchmarks.results import RESULTS, Document, Spread, write_result


def test_result_is_written_with_the_machine_and_its_report(tmp_path: Path) -> None:
    write_result("speed", {"rate": 3}, lambda document: f"rate {document['rate']}", tmp_path)
    document = json.loads((tmp_path / "speed.json").read_text())
    assert list(document) == ["machine", "rate"]
    assert document["machine"]["cores"] >= 1
    assert (tmp_path / "speed.md").read_text() == "rate 3"


def test_machine_among_the_figures_is_kept(tmp_path: Path) -> None:
    document = write_result("speed", {"machine": {"gpu": "x"}}, folder=tmp_path)
    assert document["machine"] == {"gpu": "x"}


def test_spread_is_the_median_and_the_range() -> None:
    figure = Spread.of([3.0, 1.0, 2.0])
    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)
    assert f"{figure:.1f}" == "2.0 (1.0 to 3.0)"


def test_spread_without_a_range_is_one_number() -> None:
    assert f"{Spread.of([2.04, 1.96]):.1f}" == "2.0"


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


@pytest.mark.parametrize(
    ("name", "markdown"),
    [("http", http_report.markdown), ("interaction", interaction_report.markdown)],
)
def test_committed_report_shows_the_committed_figures(
    name: str, markdown: Callable[[Document], str]
) -> None:
    document = json.loads((RESULTS / f"{name}.json").read_text())
    assert (RESULTS / f"{name}.md").read_text() == markdown(document)
