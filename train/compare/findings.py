"""What the numbers of a comparison say: which method is ahead, and where `dimml` loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from train.compare.results import modality_names
from train.compare.summary import MEASURES, SUBSET_MEASURE, Measure, Summary
from train.markdown import NOT_MEASURED
from train.report.sentences import of_100

HEADLINE = ("mean", "worst", "full")
MINUS = "\N{MINUS SIGN}"


class Finding(NamedTuple):
    """A measure, which method is ahead in it, and by how much."""

    question: str
    verdict: str
    detail: str


def opening(document: Summary) -> list[str]:
    """Return three sentences for a reader who knows no statistics: all inputs, some, confidence.

    They are about `dimml`, or about the best method if `dimml` was not measured.
    """
    methods = document["methods"]
    name = document["reference"] if document["reference"] in methods else next(iter(methods))
    return [
        _full_sentence(document, name),
        _missing_sentence(document, name),
        _confidence_sentence(document, name),
    ]


def _full_sentence(document: Summary, name: str) -> str:
    share = _mean(document, name, "full")
    if share is None:
        return "No method was measured on samples with every input."
    sentence = f"With every input, {name} labels {of_100(share)} of 100 test samples correctly"
    rival = _best_other(document, name, "full")
    if rival is None:
        return f"{sentence}; no other method was measured."
    other = of_100(_mean(document, rival, "full") or 0.0)
    return (
        f"{sentence}; the best other method, {rival}, {other}{_settled(document, rival, 'full')}."
    )


def _missing_sentence(document: Summary, name: str) -> str:
    share = _mean(document, name, "mean")
    if share is None:
        return "What missing inputs cost was not measured."
    accuracies = {
        subset: one["accuracy"]["mean"]
        for subset, one in document["methods"][name]["subsets"].items()
    }
    worst = min(accuracies, key=accuracies.__getitem__)
    inputs = " and ".join(modality_names(worst))
    sentence = (
        f"Averaged over all choices of inputs, {name} is right for {of_100(share)} of 100, and "
        f"with the worst choice ({inputs} alone) for {of_100(accuracies[worst])}"
    )
    rival = _best_other(document, name, "mean")
    if rival is None:
        return f"{sentence}."
    other = of_100(_mean(document, rival, "mean") or 0.0)
    average = f"on average, the best other method, {rival}, is right for {other}"
    return f"{sentence}; {average}{_settled(document, rival, 'mean')}."


def _confidence_sentence(document: Summary, name: str) -> str:
    gap = _mean(document, name, "ece_full")
    if gap is None:
        return "Whether its confidence can be trusted was not measured."
    sentence = (
        f"What {name} claims about its certainty and how often it is right differ by "
        f"{100 * gap:.1f} points of 100 on average"
    )
    figures = document["methods"][name]["subsets"][document["full"]]
    expected = figures["expected_ece"]["mean"]
    if expected is None:
        return f"{sentence}."
    return (
        f"{sentence}; a perfectly honest classifier would show {100 * expected:.1f} here by chance."
    )


def _mean(document: Summary, name: str, key: str) -> float | None:
    value: float | None = document["methods"][name]["measures"][key]["mean"]
    return value


def _best_other(document: Summary, name: str, key: str) -> str | None:
    others = {
        other: mean
        for other in document["methods"]
        if other != name and (mean := _mean(document, other, key)) is not None
    }
    return max(others, key=others.__getitem__) if others else None


def _settled(document: Summary, rival: str, key: str) -> str:
    """Return whether the difference to another method is beyond chance."""
    difference = document["differences"].get(rival, {}).get("measures", {}).get(key)
    if not difference:
        return ""
    if sign(difference, MEASURES[key]):
        return " (more than chance)"
    return " (a difference that chance may explain)"


def headline(document: Summary) -> list[Finding]:
    """Return which method is ahead over subsets, on the worst subset and on full input."""
    return [_finding(document, key) for key in HEADLINE]


def _finding(document: Summary, key: str) -> Finding:
    measure, reference = MEASURES[key], document["reference"]
    question = measure.title[0].upper() + measure.title[1:]
    means = {
        name: mean
        for name, method in document["methods"].items()
        if (mean := method["measures"][key]["mean"]) is not None
    }
    if not means:
        return Finding(question, "not measured", "no method has this figure")
    # `dimml` comes first in the document, so it wins a tie.
    best = max(means, key=means.__getitem__)
    ties = [name for name in means if round(means[name] - means[best], 6) == 0]
    leaders = " and ".join(ties) if len(ties) < 3 else f"{len(ties)} rows"
    verdict = f"highest mean: {leaders}, {100 * means[best]:.2f} %"
    if reference not in means:
        return Finding(question, verdict, f"{reference} was not measured")
    if len(means) == 1:
        return Finding(question, verdict, "there is no other method")
    rival = max((name for name in means if name != reference), key=means.__getitem__)
    differences = {name: d["measures"][key] for name, d in document["differences"].items()}
    if (difference := differences[rival]) is None:
        return Finding(question, verdict, f"{reference} and {rival} share no seed")
    signs = [sign(one, measure) for one in differences.values() if one]
    detail = (
        f"{reference} less {rival}, the best other: {write_difference(difference, measure)}; "
        f"{_certainty(difference)}. Beyond the interval, {reference} is ahead of {signs.count(1)} "
        f"and behind {signs.count(-1)} of {len(signs)} other rows"
    )
    return Finding(question, verdict, detail)


def _certainty(difference: Summary) -> str:
    seeds = len(difference["seeds"])
    if difference["low"] is None:
        equal = f"the same by {seeds} seeds: no interval"
        return "one seed settles nothing" if seeds == 1 else equal
    if difference["low"] <= 0 <= difference["high"]:
        return f"the interval holds 0, so {seeds} seeds do not settle it"
    return f"the interval of {seeds} seeds does not hold 0"


def sign(difference: Mapping[str, Any], measure: Measure) -> int:
    """Return 1 if `dimml` is better beyond the interval, -1 if worse, 0 if not settled."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return 0
    return 1 if (difference["mean"] > 0) == measure.higher else -1


def write_difference(
    difference: Mapping[str, Any] | None, measure: Measure, unit: bool = True
) -> str:
    """Return a difference with its interval, such as "+0.52 points (+0.31 to +0.73)"."""
    if difference is None:
        return NOT_MEASURED
    mean, low, high = (
        None if value is None else write_signed(value, measure)
        for value in (difference["mean"], difference["low"], difference["high"])
    )
    interval = f" ({low} to {high})" if low is not None else ""
    points = " points" if unit and measure.factor == 100 else ""
    return f"{mean}{points}{interval}"


def write_signed(value: float, measure: Measure) -> str:
    """Return a figure with its sign; one that rounds to zero has none."""
    text = measure.write(value, "+")
    return text.replace("-", MINUS) if float(text) else measure.write(0.0)


def losses(document: Summary) -> tuple[list[str], list[str]]:
    """Return where another method does better than `dimml` on the seeds they share.

    Returns:
        Two lists with a line per measure that names every better method: those beyond the
        interval, then those that the seeds do not settle.
    """
    clear: list[str] = []
    unsettled: list[str] = []
    for title, measure, differences in _all_differences(document):
        worse = {
            name: difference
            for name, difference in differences.items()
            if difference and difference["mean"] and (difference["mean"] < 0) == measure.higher
        }
        order = sorted(worse, key=lambda name: -abs(worse[name]["mean"]))
        for lines, wanted_sign in ((clear, -1), (unsettled, 0)):
            names = [name for name in order if sign(worse[name], measure) == wanted_sign]
            if names:
                shown = (f"{name} {write_difference(worse[name], measure)}" for name in names)
                lines.append(f"{title}: {'; '.join(shown)}")
    return clear, unsettled


def _all_differences(document: Summary) -> Iterator[tuple[str, Measure, dict[str, Any]]]:
    """Yield title, measure and differences by method: every measure, then every other subset."""
    rivals = document["differences"]
    for key, measure in MEASURES.items():
        yield measure.title, measure, {name: d["measures"][key] for name, d in rivals.items()}
    for subset in document["subsets"]:
        # The accuracy on full input is the first measure.
        if subset != document["full"]:
            values = {name: d["subsets"][subset] for name, d in rivals.items()}
            yield f"accuracy on {subset}", SUBSET_MEASURE, values
