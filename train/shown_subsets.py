"""Which subsets of modalities a report shows: M modalities have 2 ** M - 1, too many to read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from dimml.samples import subset_name

MANY_MODALITIES = 5
"""From so many modalities on (31 subsets), a report shows a selection of the subsets."""
FEW_SAMPLES = 20
"""The best and the worst subset have at least so many samples, if any has."""


def named_subsets(subsets: Collection[str]) -> dict[str, str]:
    """Return the title and the name of each subset that a report shows, whatever its accuracy.

    These are all subsets, or for many modalities each alone, all but each, and all, as far as they
    are in `subsets`, smallest first.
    """
    modalities = modalities_of(subsets)
    if len(modalities) < MANY_MODALITIES:
        return {name: name for name in subsets}
    named = {name: name for name in modalities}
    for left_out in modalities:
        others = [name for name in modalities if name != left_out]
        named[f"all but {left_out}"] = subset_name(others)
    named["all"] = subset_name(modalities)
    return {title: name for title, name in named.items() if name in subsets}


def shown_subsets(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the `named_subsets`, and for many modalities also the best and the worst subset.

    Args:
        figures: Subset name to its `accuracy` and `samples`, smallest subsets first.
    """
    shown = named_subsets(figures)
    if len(modalities_of(figures)) < MANY_MODALITIES:
        return shown
    titles = {name: title for title, name in shown.items()}
    enough = enough_samples(figures)
    # Of equal accuracies, the one of more samples tells more.
    best = max(enough, key=lambda name: (figures[name]["accuracy"], figures[name]["samples"]))
    worst = min(enough, key=lambda name: (figures[name]["accuracy"], -figures[name]["samples"]))
    extremes = {"best": best, "worst": worst}
    return shown | {f"{word}: {titles.get(name, name)}": name for word, name in extremes.items()}


def enough_samples(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the subsets whose accuracies may be compared: for few modalities all."""
    if len(modalities_of(figures)) < MANY_MODALITIES:
        return list(figures)
    return [n for n, one in figures.items() if one["samples"] >= FEW_SAMPLES] or list(figures)


def modalities_of(subsets: Collection[str]) -> list[str]:
    """Return the names of all modalities of some subsets, smallest subsets first."""
    return list(dict.fromkeys(name for subset in subsets for name in subset.split("+")))


def selection_note(figures: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """Return which subsets are shown and where all of them are; "" if all are shown."""
    if len(modalities_of(figures)) < MANY_MODALITIES:
        return ""
    return (
        f"Of {len(figures)} subsets of modalities, these are each modality alone, all but one, and "
        f"all; the best and the worst have at least {FEW_SAMPLES} samples, if any has; the mean "
        f"is over all subsets. {where} has every subset."
    )
