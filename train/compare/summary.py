"""The results of a comparison as one document: means over seeds, and paired differences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from train.compare.results import (
    Result,
    Scope,
    measured_scope,
    modality_names,
    read_results,
    stored_settings,
)
from train.compare.statistics import (
    all_or_none,
    mean,
    mean_and_deviation,
    paired,
)
from train.metrics import curve_area, expected_ece, pooled_reliability

REFERENCE = "dimml"
SUBSET_FIGURES = (
    *("accuracy", "nll", "ece", "risk_coverage_area", "set_rows"),
    *("set_coverage", "set_size", "set_nominal"),
    *("high_set_coverage", "high_set_size", "high_set_nominal"),
)
VALIDATION_FIGURES = ("accuracy", "nll")
MISSING_FIGURES = ("accuracy", "nll", "ece")
CORRUPTION_FIGURES = ("accuracy", "nll", "ece", "weight", "confidence")
ABLATION_NAME = re.compile(rf"{REFERENCE}[+-]")
"""The start of the name of a row that is `dimml` with one change."""

Summary = dict[str, Any]


class Measure(NamedTuple):
    """A figure by which methods are compared; it is written times `factor` with `digits`."""

    title: str
    factor: float = 100
    digits: int = 2
    higher: bool = True  # is better

    def write(self, value: float, sign: str = "") -> str:
        """Return the figure without its unit; with `sign="+"`, positive figures have a sign."""
        return f"{self.factor * value:{sign}.{self.digits}f}"


MEASURES = {
    "full": Measure("accuracy on full input"),
    "mean": Measure("accuracy, mean over subsets"),
    "worst": Measure("accuracy on the worst subset"),
    "missing_area": Measure("area under the missing-rate curve"),
    "robustness": Measure("accuracy kept under corruption"),
    "ece_full": Measure("ECE on full input", 1, 4, higher=False),
    "ece_mean": Measure("ECE, mean over subsets", 1, 4, higher=False),
    "nll_full": Measure("NLL on full input", 1, 4, higher=False),
    "nll_mean": Measure("NLL, mean over subsets", 1, 4, higher=False),
    "risk_full": Measure("risk-coverage area on full input", 1, 6, higher=False),
    "risk_mean": Measure("risk-coverage area, mean over subsets", 1, 6, higher=False),
}
SUBSET_MEASURE = Measure("accuracy")


def summarise(folder: Path) -> Summary:
    """Return the document of `compare.json` for the results in a folder.

    A figure over seeds is `{"mean", "std", "count"}`. `dimml` is the first method; the others are
    sorted by their mean over subsets. Differences are `dimml` less the method, see `paired`.

    Raises:
        UsageError: If there are no results or one is invalid, see `read_results`.
    """
    results = read_results(folder)
    scope = measured_scope(results)
    settings = stored_settings(folder)
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.method, []).append(result)
    methods = {name: _method(of_method, scope) for name, of_method in by_method.items()}
    order = sorted(methods, key=lambda name: _rank(name, methods[name]))
    ours = by_method.get(REFERENCE)
    return {
        "reference": REFERENCE,
        "name": settings.get("recipe", {}).get("name"),
        "data": settings.get("data"),
        "full": scope.full,
        "modalities": modality_names(scope.full),
        "subsets": list(scope.subsets),
        "singles": [name for name in scope.subsets if len(modality_names(name)) == 1],
        "rates": list(scope.rates),
        "seeds": list(scope.seeds),
        "samples": {name: _samples(results, name) for name in scope.subsets},
        "methods": {name: methods[name] for name in order},
        "ablations": [name for name in order if ours and ABLATION_NAME.match(name)],
        "differences": {
            name: _differences(ours, by_method[name], scope)
            for name in order
            if ours and name != REFERENCE
        },
        "model": _model(ours or ()),
        "machines": _distinct(result.machine for result in results if result.machine),
        "gaps": list(_gaps(by_method, scope)),
    }


def run_measures(result: Result, scope: Scope) -> dict[str, float | None]:
    """Return the `MEASURES` of one run; one that would leave out a part of the scope is None.

    Relative robustness is the accuracy under corruption of one modality divided by the accuracy on
    full input, the mean over all corruptions and levels.
    """
    per_subset = {
        figure: [result.subsets.get(name, {}).get(figure) for name in scope.subsets]
        for figure in ("accuracy", "ece", "nll", "risk_coverage_area")
    }
    full = result.subsets.get(scope.full, {})
    accuracies = all_or_none(per_subset["accuracy"])
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
    measured = [run_measures(result, scope) for result in results]
    corruption: Summary = {}
    for key in scope.corruptions:
        modality, kind, level = key
        levels = corruption.setdefault(modality, {}).setdefault(kind, {})
        levels[level] = _figures(CORRUPTION_FIGURES, [result.corrupted(key) for result in results])
    return {
        "seeds": [result.seed for result in results],
        "seconds": mean_and_deviation(result.seconds for result in results),
        "epochs": mean_and_deviation(result.epochs for result in results),
        "hyperparameters": _distinct(result.hyperparameters for result in results),
        "measures": {key: mean_and_deviation(one[key] for one in measured) for key in MEASURES},
        "subsets": {name: _subset(results, name) for name in scope.subsets},
        "missing": {
            rate: _figures(MISSING_FIGURES, [result.missing.get(rate, {}) for result in results])
            for rate in scope.rates
        },
        "corruption": corruption,
        "reliability": {
            name: pooled_reliability([r.reliability.get(name, {}) for r in results])
            for name in scope.subsets
        },
        "validation": _figures(VALIDATION_FIGURES, [r.validation for r in results]),
        "duc": _dimension_sets([result.duc for result in results if result.duc]),
    }


def _subset(results: Sequence[Result], name: str) -> Summary:
    figures = _figures(SUBSET_FIGURES, [result.subsets.get(name, {}) for result in results])
    expected = (expected_ece(result.reliability.get(name, {})) for result in results)
    return {**figures, "expected_ece": mean_and_deviation(expected)}


def _figures(names: Iterable[str], tables: Sequence[Mapping[str, Any]]) -> Summary:
    return {name: mean_and_deviation(table.get(name) for table in tables) for name in names}


def _dimension_sets(tables: Sequence[Mapping[str, Mapping[str, Any]]]) -> Summary | None:
    groups: Summary = {}
    for group in dict.fromkeys(group for table in tables for group in table):
        sizes = [table.get(group) or {} for table in tables]
        groups[group] = _figures(dict.fromkeys(name for size in sizes for name in size), sizes)
    return groups or None


def _differences(ours: Sequence[Result], theirs: Sequence[Result], scope: Scope) -> Summary:
    def difference(figure: Callable[[Result], float | None]) -> Summary | None:
        first, second = ({r.seed: figure(r) for r in results} for results in (ours, theirs))
        return paired(first, second)

    def measure(key: str, result: Result) -> float | None:
        return run_measures(result, scope)[key]

    def accuracy(subset: str, result: Result) -> Any:
        return result.subsets.get(subset, {}).get("accuracy")

    return {
        "measures": {key: difference(partial(measure, key)) for key in MEASURES},
        "subsets": {name: difference(partial(accuracy, name)) for name in scope.subsets},
    }


def _model(ours: Sequence[Result]) -> Summary | None:
    """Return the errors of the first seed that stores them, preferably one with examples."""
    stored = [
        {"seed": result.seed, "examples": [], **result.model} for result in ours if result.model
    ]
    return max(stored, key=lambda one: bool(one["examples"]), default=None)


def _rank(name: str, method: Summary) -> tuple[bool, float, str]:
    value = method["measures"]["mean"]["mean"]
    return name != REFERENCE, -value if value is not None else 0.0, name


def _samples(results: Sequence[Result], subset: str) -> int | None:
    return next((n for r in results if (n := r.subsets.get(subset, {}).get("samples"))), None)


def _distinct(tables: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    distinct: list[Mapping[str, Any]] = []
    distinct.extend(table for table in tables if table not in distinct)
    return distinct


def _gaps(by_method: Mapping[str, Sequence[Result]], scope: Scope) -> Iterator[str]:
    """Yield a sentence for everything that the results lack for a complete comparison."""
    if REFERENCE not in by_method:
        yield f"there is no result of {REFERENCE}, so there are no differences"
    if scope.full not in scope.subsets:
        yield f"no row of the test split has every modality ({scope.full})"
    lacking = {
        (name, result.seed): [k for k, v in run_measures(result, scope).items() if v is None]
        for name, results in by_method.items()
        for result in results
    }
    nowhere = [key for key in MEASURES if all(key in keys for keys in lacking.values())]
    if nowhere:
        yield f"not measured: {_titles(nowhere)}"
    for name, results in by_method.items():
        if absent := sorted(set(scope.seeds) - {result.seed for result in results}):
            yield f"there is no result of {name} for seed {', '.join(map(str, absent))}"
        for result in results:
            if keys := [key for key in lacking[name, result.seed] if key not in nowhere]:
                yield f"seed {result.seed} of {name} lacks: {_titles(keys)}"


def _titles(keys: Iterable[str]) -> str:
    return "; ".join(MEASURES[key].title for key in keys)
