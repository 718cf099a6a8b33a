"""The counts of a confusion matrix."""

from __future__ import annotations

import numpy as np

from train.report.confusion import SHOWN_LABELS, count_confusions


def test_rows_are_true_labels_and_columns_are_answers() -> None:
    counted = count_confusions(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 0, 0]), ["no", "yes"])
    assert counted["counts"] == [[1, 1], [2, 1]]
    assert counted["labels"] == ["no", "yes"]
    assert counted["errors"] == 3
    assert counted["pairs"] == [
        {"label": "yes", "predicted": "no", "count": 2},
        {"label": "no", "predicted": "yes", "count": 1},
    ]


def test_of_a_thousand_labels_those_with_the_most_errors_are_shown() -> None:
    labels = [f"label {number}" for number in range(1000)]
    truth = np.concatenate([np.arange(1000), [7, 7, 999]])
    predicted = np.concatenate([np.arange(1000), [8, 8, 3]])
    counted = count_confusions(truth, predicted, labels)
    assert counted["classes"] == 1000
    assert len(counted["labels"]) == len(counted["counts"]) == SHOWN_LABELS
    assert {"label 3", "label 7", "label 8", "label 999"} <= set(counted["labels"])
    place = counted["labels"].index
    assert counted["counts"][place("label 7")][place("label 8")] == 2
    assert counted["pairs"][0] == {"label": "label 7", "predicted": "label 8", "count": 2}


def test_answers_without_an_error_have_no_pairs() -> None:
    counted = count_confusions(np.array([1]), np.array([1]), ["no", "yes"])
    assert (counted["counts"], counted["pairs"], counted["errors"]) == ([[0, 0], [0, 1]], [], 0)
