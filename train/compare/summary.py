"""The results of a comparison as one document: means over seeds, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.compare.plan import stored_settings
from train.compare.results import Result, Scope, modalities, read_results, scope_of
from train.compare.statistics import (
    complete,
    curve_area,
    expected_ece,
    mean,
    paired,
    pooled_reliability,
    spread,
)

REFERENCE = "dimml"
SET_FIGURES = ("set_coverage", "set_size", "set_nominal")
SUBSET_FIGURES = (
    *("accuracy", "nll", "ece", "risk_coverage_area", "set_rows"),
    *SET_FIGURES,
    *(f"high_{name}" for name in SET_FIGURES),
)
VALIDATION_FIGURES = ("accuracy", "nll")
MISSING_FIGURES = ("accuracy", "nll", "ece")
CORRUPTION_FIGURES = ("accuracy", "nll", "ece", "weight", "confidence")
Summary = dict[str, Any]
ABLATION = re.compile(rf"{REFERENCE}[+-]")
"""How the name of a row begins that is `dimml` with a change."""


@dataclass(frozen=True)
class Scale:
    """How a figure is written: times a factor, with digits after the point."""

    factor: float
    digits: int
    unit: str = ""

    def write(self, value: float, sign: str = "") -> str:
        """The figure in digits, without its unit; with sign "+" it always has one."""
        return f"{self.factor * value:{sign}.{self.digits}f}"


PER_CENT = Scale(100, 2, " points")
PLAIN = Scale(1, 4)
FINE = Scale(1, 6)


@dataclass(frozen=True)
class Measure:
    """A figure of one run by which methods are compared.

    Attributes:
        title: as reports call it.
        higher: whether more is better.
        scale: how it is written.
    """

    title: str
    higher: bool
    scale: Scale


MEASURES: dict[str, Measure] = {
    "full": Measure("accuracy on full input", higher=True, scale=PER_CENT),
    "mean": Measure("accuracy, mean over subsets", higher=True, scale=PER_CENT),
    "worst": Measure("accuracy on the worst subset", higher=True, scale=PER_CENT),
    "missing_area": Measure("area under the missing-rate curve", higher=True, scale=PER_CENT),
    "robustness": Measure("accuracy kept under corruption", higher=True, scale=PER_CENT),
    "ece_full": Measure("ECE on full input", higher=False, scale=PLAIN),
    "ece_mean": Measure("ECE, mean over subsets", higher=False, scale=PLAIN),
    "nll_full": Measure("NLL on full input", higher=False, scale=PLAIN),
    "nll_mean": Measure("NLL, mean over subsets", higher=False, scale=PLAIN),
    "risk_full": Measure("risk-coverage area on full input", higher=False, scale=FINE),
    "risk_mean": Measure("risk-coverage area, mean over subsets", higher=False, scale=FINE),
}
SUBSET_MEASURE = Measure("accuracy", higher=True, scale=PER_CENT)


def summarise(out: Path) -> Summary:
    """The document of `compare.json` of the results in a folder.

    A figure over seeds is `{"mean", "std", "count"}`. Methods are in the order of their mean over
    subsets, `dimml` first. Differences are `dimml` less the method, see `paired`.

    Raises:
        UsageError: see `read_results`.
    """
    results = read_results(out)
    scope = scope_of(results)
    settings = stored_settings(out)
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result)
    methods = {name: _method(found, scope) for name, found in by_method.items()}
    order = sorted(methods, key=lambda name: _rank(name, methods[name]))
    ours = by_method.get(REFERENCE)
    return {
        "reference": REFERENCE,
        "name": settings.get("recipe", {}).get("name"),
        "data": settings.get("data"),
        "full": scope.full,
        "modalities": modalities(scope.full),
        "subsets": list(scope.subsets),
        "singles": list(scope.singles),
        "rates": list(scope.rates),
        "seeds": list(scope.seeds),
        "samples": {name: _samples(results, name) for name in scope.subsets},
        "methods": {name: methods[name] for name in order},
        "ablations": [name for name in order if ours and ABLATION.match(name)],
        "differences": {
            name: _differences(ours, by_method[name], scope)
            for name in order
            if ours and name != REFERENCE
        },
        "machines": _distinct(result.machine for result in results if result.machine),
        "gaps": list(_gaps(by_method, scope)),
    }


def measure(result: Result, scope: Scope) -> dict[str, float | None]:
    """The `MEASURES` of one run; one that would leave anything of the scope out is None.

    Relative robustness is the accuracy under a corruption of one modality over that on full input,
    the mean over all corruptions and levels.
    """
    per_subset = {
        figure: [result.subsets.get(name, {}).get(figure) for name in scope.subsets]
        for figure in SUBSET_FIGURES
    }
    full = result.subsets.get(scope.full, {})
    accuracies = complete(per_subset["accuracy"])
    rates = {float(rate): result.missing.get(rate, {}).get("accuracy") for rate in scope.rates}
    corrupted = mean(result.corrupted(key).get("accuracy") for key in scope.corruptions)
    clean = full.get("accuracy")
    return {
        "full": clean,
        "mean": mean(per_subset["accuracy"]),
        "worst": min(accuracies) if accuracies else None,
        "missing_area": curve_area(rates),
        "robustness": corrupted / clean if corrupted is not None and clean else None,
        "ece_full": full.get("ece"),
        "ece_mean": mean(per_subset["ece"]),
        "nll_full": full.get("nll"),
        "nll_mean": mean(per_subset["nll"]),
        "risk_full": full.get("risk_coverage_area"),
        "risk_mean": mean(per_subset["risk_coverage_area"]),
    }


def _method(results: Sequence[Result], scope: Scope) -> Summary:
    measured = [measure(result, scope) for result in results]
    return {
        "seeds": [result.seed for result in results],
        "seconds": spread(result.seconds for result in results),
        "epochs": spread(result.epochs for result in results),
        "hyperparameters": _distinct(result.hyperparameters for result in results),
        "measures": {name: spread(one[name] for one in measured) for name in MEASURES},
        "subsets": {name: _subset(results, name) for name in scope.subsets},
        "missing": {
            rate: _figures(MISSING_FIGURES, [result.missing.get(rate, {}) for result in results])
            for rate in scope.rates
        },
        "corruption": _corruption(results, scope),
        "reliability": {
            name: pooled_reliability([r.reliability.get(name, {}) for r in results])
            for name in scope.subsets
        },
        "validation": _figures(VALIDATION_FIGURES, [r.validation for r in results]),
        "duc": _duc(results),
    }


def _subset(results: Sequence[Result], name: str) -> Summary:
    figures = _figures(SUBSET_FIGURES, [result.subsets.get(name, {}) for result in results])
    expected = (expected_ece(result.reliability.get(name, {})) for result in results)
    return {**figures, "expected_ece": spread(expected)}


def _figures(names: Sequence[str], tables: Sequence[Mapping[str, Any]]) -> Summary:
    return {name: spread(table.get(name) for table in tables) for name in names}


def _corruption(results: Sequence[Result], scope: Scope) -> Summary:
    found: Summary = {}
    for key in scope.corruptions:
        modality, kind, level = key
        levels = found.setdefault(modality, {}).setdefault(kind, {})
        levels[level] = _figures(CORRUPTION_FIGURES, [result.corrupted(key) for result in results])
    return found


def _duc(results: Sequence[Result]) -> Summary | None:
    tables = [result.duc for result in results if result.duc]
    found: Summary = {}
    for group in dict.fromkeys(group for table in tables for group in table):
        sizes = [table.get(group) or {} for table in tables]
        names = dict.fromkeys(name for size in sizes for name in size)
        found[group] = {name: spread(size.get(name) for size in sizes) for name in names}
    return found or None


def _differences(ours: Sequence[Result], theirs: Sequence[Result], scope: Scope) -> Summary:
    def difference(figure: Callable[[Result], float | None]) -> Summary | None:
        first, second = ({r.seed: figure(r) for r in results} for results in (ours, theirs))
        return paired(first, second)

    return {
        "measures": {n: difference(lambda r, n=n: measure(r, scope)[n]) for n in MEASURES},
        "subsets": {
            name: difference(lambda r, name=name: r.subsets.get(name, {}).get("accuracy"))
            for name in scope.subsets
        },
    }


def _rank(name: str, method: Summary) -> tuple[bool, float, str]:
    found = method["measures"]["mean"]["mean"]
    return name != REFERENCE, -found if found is not None else 0.0, name


def _samples(results: Sequence[Result], subset: str) -> int | None:
    return next((n for r in results if (n := r.subsets.get(subset, {}).get("samples"))), None)


def _distinct(tables: Iterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for table in tables:
        if table not in found:
            found.append(table)
    return found


def _gaps(by_method: Mapping[str, Sequence[Result]], scope: Scope) -> Iterator[str]:
    """What stands between the results and a complete comparison, in words."""
    if REFERENCE not in by_method:
        yield f"there is no result of {REFERENCE}, so there are no differences"
    every = [measure(result, scope) for results in by_method.values() for result in results]
    nowhere = {key for key in MEASURES if all(one[key] is None for one in every)}
    if scope.full not in scope.subsets:
        yield f"no row of the test split has every modality ({scope.full})"
    if nowhere:
        titles = "; ".join(MEASURES[key].title for key in MEASURES if key in nowhere)
        yield f"not measured: {titles}"
    for name, results in by_method.items():
        if absent := sorted(set(scope.seeds) - {result.seed for result in results}):
            yield f"there is no result of {name} for seed {', '.join(map(str, absent))}"
        for result in results:
            lacking = [
                key
                for key, value in measure(result, scope).items()
                if value is None and key not in nowhere
            ]
            if lacking:
                titles = "; ".join(MEASURES[key].title for key in lacking)
                yield f"seed {result.seed} of {name} lacks: {titles}"
