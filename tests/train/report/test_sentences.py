"""The first sentences of a report on one bundle."""

from __future__ import annotations

from typing import Any

import pytest

from train.report.sentences import of_100, opening


def summary(**changes: Any) -> dict[str, Any]:
    return {
        "samples": 1500,
        "accuracy": 0.974,
        "confidence": 0.968,
        "frequent": {"label": "seven", "share": 0.12},
        "sure": {"share": 0.8, "accuracy": 0.995},
        "ece": 0.01,
        "expected_ece": 0.008,
        "subsets": {"audio": 0.77, "text": 0.91, "audio+text": 0.97},
        **changes,
    }


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "none"),
        (0.001, "fewer than 1"),
        (0.5, "50"),
        (0.994, "99"),
        (0.9999, "more than 99"),
        (1.0, "all 100"),
    ],
)
def test_share_is_not_rounded_to_none_or_all(share: float, text: str) -> None:
    assert of_100(share) == text


def test_good_classifier_is_described_in_three_sentences() -> None:
    right, missing, confidence = opening("digits", summary())
    assert right == (
        "Of 100 samples, digits labels 97 correctly (give or take 1, because 1,500 samples were "
        "measured); always answering “seven”, the most frequent label, would be right for 12."
    )
    assert missing == (
        "When inputs are missing, it still answers: with audio and text, it is right for 97 of "
        "100, and in the worst case, with audio alone, for 77."
    )
    assert confidence == (
        "Its confidence can be trusted: on average it claims to be 97 % sure, and it is right for "
        "97 of 100; where it claims 90 % or more (for 80 of 100), it is right for more than "
        "99 of 100."
    )


def test_classifier_that_guesses_is_called_no_better_than_guessing() -> None:
    right, *_ = opening("digits", summary(accuracy=0.13))
    assert "that is no better than always answering “seven”" in right


def test_small_split_is_called_too_small() -> None:
    right, missing, confidence = opening("digits", summary(samples=3, accuracy=2 / 3))
    assert right.startswith("digits labels 2 of 3 samples correctly, but so few samples")
    assert missing.startswith("As far as so few samples tell: When inputs are missing")
    assert "cannot be told from so few samples" in confidence


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"ece": 0.2, "confidence": 0.99, "accuracy": 0.79}, "It is surer of itself than it"),
        ({"ece": 0.2, "confidence": 0.6, "accuracy": 0.8}, "It is less sure of itself than it"),
        ({"ece": 0.2}, "Its confidence is right on average, but not for each level"),
        ({"sure": {"share": 0.0, "accuracy": None}}, "it is never more than 90 % sure"),
    ],
)
def test_confidence_that_misleads_is_named(changes: dict[str, Any], verdict: str) -> None:
    assert verdict in opening("digits", summary(**changes))[2]


def test_single_subset_leaves_missing_inputs_unknown() -> None:
    sentence = opening("digits", summary(subsets={"text": 0.9}))[1]
    assert "nothing is known about what happens when an input is missing" in sentence


def test_equal_subsets_hardly_matter() -> None:
    sentence = opening("digits", summary(subsets={"audio": 0.9, "text": 0.91}))[1]
    assert sentence.startswith("It hardly matters which inputs a sample has")
