"""The subsets that a report shows: all of few modalities, a selection of many."""

from __future__ import annotations

from typing import Any

import pytest

from dimml.samples import subset_name, subsets
from train.compare.report import with_named_subsets
from train.evaluate import subset_table
from train.model_card import model_card
from train.shown_subsets import FEW_SAMPLES, named_subsets, selection_note, shown_subsets

EIGHT = ("img1", "img2", "img3", "snd1", "snd2", "snd3", "title", "body")


def figures_of(names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return figures in which more modalities are better, and the two texts are the best pair."""
    figures = {}
    for subset in subsets(names):
        accuracy = 0.99 if subset == names[-2:] else 0.5 + 0.05 * len(subset)
        rest = {"macro_f1": accuracy, "nll": 0.1, "ece": 0.01}
        figures[subset_name(subset)] = {"samples": 100, "accuracy": accuracy, **rest}
    return figures


def report_of(names: tuple[str, ...]) -> dict[str, Any]:
    head = {"bundle": "b@0", "split": "test", "samples": 100, "unreadable": 0}
    return {**head, "prediction_sets": None, "subsets": figures_of(names)}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_up_to_four_modalities_show_every_subset(count: int) -> None:
    figures = figures_of(EIGHT[:count])
    assert shown_subsets(figures) == {name: name for name in figures}
    assert selection_note(figures, "here") == ""


@pytest.mark.parametrize("count", [5, 8])
def test_many_modalities_show_each_alone_all_but_each_all_best_and_worst(count: int) -> None:
    names = EIGHT[:count]
    shown = shown_subsets(figures_of(names))
    expected = [*names, *(f"all but {name}" for name in names), "all"]
    assert list(shown)[:-2] == expected
    best = "+".join(names[-2:])
    assert list(shown.items())[-2:] == [(f"best: {best}", best), (f"worst: {names[0]}", names[0])]


def test_best_and_worst_subset_have_enough_samples() -> None:
    figures = figures_of(EIGHT)
    figures["img1+img2"] |= {"accuracy": 1.0, "samples": FEW_SAMPLES - 1}
    figures["img1+img3"] |= {"accuracy": 0.0, "samples": 1}
    titles = list(shown_subsets(figures))
    assert titles[-2:] == ["best: title+body", "worst: img1"]


def test_subset_that_no_row_has_is_not_shown() -> None:
    figures = figures_of(EIGHT)
    del figures["+".join(EIGHT)]
    assert "all" not in shown_subsets(figures)
    assert list(named_subsets(figures))[: len(EIGHT)] == list(EIGHT)


def test_table_of_eight_modalities_has_the_mean_of_all_subsets_and_says_where_they_are() -> None:
    text = subset_table(report_of(EIGHT))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 8 + 8 + 1 + 2 + 1
    figures = figures_of(EIGHT)
    mean = sum(one["accuracy"] for one in figures.values()) / 255
    assert rows[-1].startswith(f"| mean | - | {mean:.4f} |")
    assert "Of 255 subsets" in text
    assert "`evaluation.json` has every subset" in text


def test_table_of_three_modalities_has_every_subset_and_no_mean() -> None:
    text = subset_table(report_of(EIGHT[:3]))
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 1 + 7
    assert "mean" not in text


def test_comparison_of_eight_modalities_shows_seventeen_of_255_subsets() -> None:
    document = with_named_subsets({"subsets": list(figures_of(EIGHT))})
    assert len(document["subsets"]) == 17
    assert document["subsets"][-1] == "+".join(EIGHT)


def test_model_card_of_eight_modalities_is_short(free_names_bundle: Any) -> None:
    card = model_card(free_names_bundle, report_of(EIGHT))
    # The header has each alone, all but each, all, and the best; the worst is one of these.
    assert card.count("config: ") == 18
    assert len(card) < 12_000
