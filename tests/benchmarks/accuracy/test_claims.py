from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from benchmarks.accuracy.claims import DOCUMENT, RESULTS_PAGE, claims, results_page
from train.compare.report import without_ablations


@pytest.fixture
def document() -> dict[str, Any]:
    """The published comparison, without ablations."""
    return copy.deepcopy(without_ablations(json.loads(DOCUMENT.read_text())))


def holds(document: dict[str, Any], start: str) -> list[bool | None]:
    """Whether each claim that begins with a text holds."""
    return [claim.holds for claim in claims(document) if claim.text.startswith(start)]


def test_results_page_is_made_of_the_published_comparison() -> None:
    assert RESULTS_PAGE.read_text() == results_page(json.loads(DOCUMENT.read_text()))


def test_claim_to_be_ahead_holds_only_for_the_best_mean(document: dict[str, Any]) -> None:
    ours = document["methods"]["dimml"]["measures"]
    for key in ("mean", "worst"):
        ours[key]["mean"] = 0.999
    assert holds(document, "Ahead of every method") == [True, True]
    ours["mean"]["mean"] = 0.5
    assert holds(document, "Ahead of every method") == [False, True]


def test_claim_about_full_input_allows_one_standard_deviation(document: dict[str, Any]) -> None:
    full = document["methods"]["dimml"]["measures"]["full"]
    best = max(m["measures"]["full"]["mean"] for m in document["methods"].values())
    full |= {"mean": best - 0.01, "std": 0.011}
    assert holds(document, "Not behind") == [True]
    full["std"] = 0.009
    assert holds(document, "Not behind") == [False]


def test_claim_about_calibration_fails_on_the_worst_subset(document: dict[str, Any]) -> None:
    assert holds(document, "ECE on each subset") == [True]
    subset = document["methods"]["dimml"]["subsets"]["image"]
    subset["ece"]["mean"] = subset["expected_ece"]["mean"] + 0.03
    assert holds(document, "ECE on each subset") == [False]


def test_claim_about_coverage_allows_three_standard_errors(document: dict[str, Any]) -> None:
    figures = document["methods"]["dimml"]["subsets"]["text"]
    figures["set_rows"]["mean"], document["samples"]["text"] = 200, 200
    # The standard error of a coverage of 0.9 on 200 and 200 rows is 0.03.
    figures["set_coverage"]["mean"] = 0.9 - 0.085
    assert holds(document, "Prediction sets hold the label in 90 %") == [True]
    figures["set_coverage"]["mean"] = 0.9 - 0.095
    assert holds(document, "Prediction sets hold the label in 90 %") == [False]


def test_claim_about_set_size_fails_for_a_large_set(document: dict[str, Any]) -> None:
    document["methods"]["dimml"]["subsets"]["text"]["set_size"]["mean"] = 1.2
    assert holds(document, "Mean size") == [False]


def test_claim_without_a_measurement_is_not_judged(document: dict[str, Any]) -> None:
    measures = document["methods"]["dimml"]["measures"]
    measures["ece_full"]["mean"] = measures["full"]["std"] = measures["mean"]["mean"] = None
    assert holds(document, "ECE of at most") == [None]
    assert holds(document, "Not behind") == [None]
    assert holds(document, "Ahead of every method: accuracy, mean") == [None]
