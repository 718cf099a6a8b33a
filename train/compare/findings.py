"""What the numbers of a comparison say: who is ahead, where `dimml` loses, which claims hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from train.compare.page import Answer
from train.compare.summary import MEASURES, PLAIN, SUBSET_MEASURE, Measure, Scale, Summary
from train.compare.tables import NOTHING

HEADLINE = ("mean", "worst", "full")
ECE_LIMIT = 0.02
SET_LIMIT = 1.05
"""On full input, and above the expected ECE on each subset."""
MINUS = "\N{MINUS SIGN}"


def answers(document: Summary) -> list[Answer]:
    """Who is ahead on the mean over subsets, on the worst subset and on full input."""
    return [_answer(document, key) for key in HEADLINE]


def _answer(document: Summary, key: str) -> Answer:
    title = MEASURES[key].title
    question = title[0].upper() + title[1:]
    means = {
        name: found
        for name, method in document["methods"].items()
        if (found := method["measures"][key]["mean"]) is not None
    }
    if not means:
        return Answer(question, "not measured", "no method has this figure", "open")
    reference = document["reference"]
    # A tie goes to the first method, which is dimml where it takes part.
    best = max(means, key=means.__getitem__)
    ties = [name for name in means if round(means[name] - means[best], 6) == 0]
    leaders = " and ".join(ties) if len(ties) < 3 else f"{len(ties)} rows"
    verdict = f"highest mean: {leaders}, {100 * means[best]:.2f} %"
    others = [name for name in means if name != reference]
    if reference not in means:
        return Answer(question, verdict, f"{reference} was not measured", "open")
    if not others:
        return Answer(question, verdict, "there is no other method", "open")
    rival = max(others, key=means.__getitem__)
    difference = document["differences"][rival]["measures"][key]
    if difference is None:
        return Answer(question, verdict, f"{reference} and {rival} share no seed", "open")
    settled = {1: "good", -1: "bad", 0: "open"}[sign(difference, MEASURES[key])]
    against = f"{reference} less {rival}, the best other: {show(difference, MEASURES[key])}"
    detail = f"{against}; {_settled(difference)}. {_count(document, key)}"
    return Answer(question, verdict, detail, settled)


def _count(document: Summary, key: str) -> str:
    found = [one["measures"][key] for one in document["differences"].values()]
    signs = [sign(difference, MEASURES[key]) for difference in found if difference]
    return (
        f"Beyond the interval, {document['reference']} is ahead of {signs.count(1)} and behind "
        f"{signs.count(-1)} of {len(signs)} other rows"
    )


def _settled(difference: Summary) -> str:
    seeds = len(difference["seeds"])
    if difference["low"] is None:
        return (
            "one seed settles nothing" if seeds == 1 else f"the same by {seeds} seeds: no interval"
        )
    if difference["low"] <= 0 <= difference["high"]:
        return f"the interval holds 0, so {seeds} seeds do not settle it"
    return f"the interval of {seeds} seeds does not hold 0"


def sign(difference: Mapping[str, Any], measure: Measure) -> int:
    """1 if `dimml` is better by more than the interval, -1 if worse, 0 if that is not settled."""
    if difference["low"] is None or difference["low"] <= 0 <= difference["high"]:
        return 0
    return 1 if (difference["mean"] > 0) == measure.higher else -1


def show(difference: Mapping[str, Any] | None, measure: Measure, unit: bool = True) -> str:
    """A difference with its interval, such as "+0.52 points (+0.31 to +0.73)"."""
    if difference is None:
        return NOTHING
    scale = measure.scale
    mean, low, high = (
        None if value is None else _signed(value, scale)
        for value in (difference["mean"], difference["low"], difference["high"])
    )
    interval = f" ({low} to {high})" if low is not None else ""
    return f"{mean}{scale.unit if unit else ''}{interval}"


def _signed(value: float, scale: Scale) -> str:
    """With its sign, but for what is written as zero."""
    text = scale.write(value, "+")
    return text.replace("-", MINUS) if float(text) else scale.write(0.0)


def losses(document: Summary) -> tuple[list[str], list[str]]:
    """Where another method does better than `dimml` on the seeds they share.

    Returns:
        A line per measure, with every method that is better: beyond the interval; not settled.
    """
    clear: list[str] = []
    unsettled: list[str] = []
    for title, measure, differences in _compared(document):
        worse = {
            name: d
            for name, d in differences.items()
            if d and d["mean"] and (d["mean"] < 0) == measure.higher
        }
        order = sorted(worse, key=lambda name: -abs(worse[name]["mean"]))
        for lines, wanted in ((clear, -1), (unsettled, 0)):
            found = [name for name in order if sign(worse[name], measure) == wanted]
            if found:
                shown = "; ".join(f"{name} {show(worse[name], measure)}" for name in found)
                lines.append(f"{title}: {shown}")
    return clear, unsettled


def _compared(document: Summary) -> Iterator[tuple[str, Measure, dict[str, Any]]]:
    """Title, measure, and method to difference, of every measure and every subset's accuracy."""
    found = document["differences"]
    for key, measure in MEASURES.items():
        yield measure.title, measure, {name: d["measures"][key] for name, d in found.items()}
    for subset in document["subsets"]:
        # Of full input it is the first measure.
        if subset != document["full"]:
            title = f"accuracy on {subset}"
            yield title, SUBSET_MEASURE, {name: d["subsets"][subset] for name, d in found.items()}


def claims(document: Summary) -> list[tuple[str, str, str]]:
    """What `dimml` claims, what was measured, and whether it holds (yes, no, not known)."""
    ours = document["methods"].get(document["reference"])
    if ours is None:
        return []
    return [
        _ahead(document, "mean"),
        _ahead(document, "worst"),
        _not_behind(document, ours),
        _calibrated(document, ours),
        _calibrated_per_subset(document, ours),
        *(_covered(document, ours, prefix) for prefix in ("", "high_")),
        _small_sets(document, ours),
    ]


def _ahead(document: Summary, key: str) -> tuple[str, str, str]:
    claim = f"Ahead of every method: {MEASURES[key].title}"
    rivals = {n: m["measures"][key]["mean"] for n, m in document["methods"].items()}
    ours = rivals.pop(document["reference"])
    found = {name: value for name, value in rivals.items() if value is not None}
    if ours is None or not found:
        return claim, NOTHING, "not known"
    rival = max(found, key=found.__getitem__)
    measured = f"{100 * ours:.2f} % against {100 * found[rival]:.2f} % ({rival})"
    return claim, measured, _verdict(ours > found[rival])


def _not_behind(document: Summary, ours: Summary) -> tuple[str, str, str]:
    claim = "Not behind on full input by more than its standard deviation over seeds"
    own = ours["measures"]["full"]
    others = [
        found
        for name, method in document["methods"].items()
        if name != document["reference"]
        and (found := method["measures"]["full"]["mean"]) is not None
    ]
    if own["std"] is None or not others:
        return claim, NOTHING, "not known"
    behind = max(others) - own["mean"]
    measured = f"{'behind' if behind > 0 else 'ahead'} by {100 * abs(behind):.2f}"
    detail = f"{measured} points; deviation {100 * own['std']:.2f}"
    return claim, detail, _verdict(behind <= own["std"])


def _calibrated(document: Summary, ours: Summary) -> tuple[str, str, str]:
    claim = f"ECE of at most {ECE_LIMIT} on full input"
    found = ours["measures"]["ece_full"]["mean"]
    if found is None:
        return claim, NOTHING, "not known"
    return claim, f"{found:.4f}", _verdict(found <= ECE_LIMIT)


def _calibrated_per_subset(document: Summary, ours: Summary) -> tuple[str, str, str]:
    claim = f"ECE on each subset within {ECE_LIMIT} of what perfect calibration would measure"
    pairs = {
        name: (figures["ece"]["mean"], figures["expected_ece"]["mean"])
        for name, figures in ours["subsets"].items()
    }
    excess = {n: a - b for n, (a, b) in pairs.items() if a is not None and b is not None}
    if len(excess) < len(document["subsets"]):
        return claim, NOTHING, "not known"
    worst = max(excess, key=excess.__getitem__)
    most = _signed(excess[worst], PLAIN)
    return claim, f"at most {most} ({worst})", _verdict(excess[worst] <= ECE_LIMIT)


def _covered(document: Summary, ours: Summary, prefix: str) -> tuple[str, str, str]:
    """Both splits are finite: the standard error is sqrt(c (1 - c) (1 / n + 1 / m))."""
    short = {}
    nominal = None
    for name, figures in ours["subsets"].items():
        coverage, nominal = (figures[f"{prefix}set_{k}"]["mean"] for k in ("coverage", "nominal"))
        rows, samples = figures["set_rows"]["mean"], document["samples"].get(name)
        if coverage is not None and nominal and rows and samples:
            error = math.sqrt(nominal * (1 - nominal) * (1 / rows + 1 / samples))
            short[name] = (nominal - coverage) / error
    share = f"{100 * nominal:g} %" if nominal else "the coverage asked for"
    claim = f"Prediction sets hold the label in {share}, on each subset, up to 3 standard errors"
    if not short or len(short) < len(document["subsets"]):
        return claim, NOTHING, "not known"
    worst = max(short, key=short.__getitem__)
    measured = f"short by {short[worst]:.1f} standard errors at most ({worst})"
    if short[worst] <= 0:
        measured = "short on no subset"
    return claim, measured, _verdict(short[worst] <= 3)


def _small_sets(document: Summary, ours: Summary) -> tuple[str, str, str]:
    claim = f"Mean size of at most {SET_LIMIT} where accuracy exceeds the coverage"
    sizes = {}
    for name, figures in ours["subsets"].items():
        size, accuracy, nominal = (
            figures[key]["mean"] for key in ("set_size", "accuracy", "set_nominal")
        )
        if size is not None and accuracy is not None and nominal and accuracy > nominal:
            sizes[name] = size
    if not sizes:
        return claim, NOTHING, "not known"
    worst = max(sizes, key=sizes.__getitem__)
    return claim, f"at most {sizes[worst]:.3f} ({worst})", _verdict(sizes[worst] <= SET_LIMIT)


def _verdict(holds: bool) -> str:
    return "yes" if holds else "no"
