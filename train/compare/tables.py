"""The tables of a comparison's report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem

from train.compare.findings import write_difference
from train.compare.summary import MEASURES, SUBSET_MEASURE, Measure, Summary
from train.markdown import NOT_MEASURED, Bold, number_ranges, setting_list, table

ABLATION_TEST_MEASURES = ("mean", "full", "worst", "robustness", "nll_mean", "ece_mean")
TRAINING_OUTCOMES = ("best_epoch", "validation_accuracy")
"""Entries of the hyper-parameters that training found."""

Methods = Mapping[str, Summary]
Column = tuple[str, tuple[str, ...], Measure]
"""Header, where a method keeps the figure, how the figure is written."""


def figure_table(methods: Methods, keys: Iterable[str], *path: str) -> str:
    """Return a table with a row per method and a column per key.

    Args:
        methods: The methods of the document.
        keys: Names of measures, of subsets or of rates.
        path: Where a method keeps the figures, with "KEY" in place of the key.
    """
    return _method_table(methods, [_column(key, path) for key in keys])


def ablation_table(methods: Methods) -> str:
    """Return a table of measures on validation, by which to choose, and on test."""
    columns = [
        ("validation: accuracy", ("validation", "accuracy"), SUBSET_MEASURE),
        ("NLL", ("validation", "nll"), MEASURES["nll_mean"]),
        *(_column(key, ("measures", "KEY"), "test: ") for key in ABLATION_TEST_MEASURES),
    ]
    return _method_table(methods, columns)


def difference_table(differences: Methods, part: str, keys: Sequence[str]) -> str:
    """Return a table of paired differences in measures or on subsets."""
    measures = {key: MEASURES.get(key, SUBSET_MEASURE._replace(title=key)) for key in keys}
    rows = [
        [name, *(write_difference(one[part][key], m, False) for key, m in measures.items())]
        for name, one in differences.items()
    ]
    return table(["method", *(measure.title for measure in measures.values())], rows)


def calibration_table(methods: Methods, subsets: Sequence[str]) -> str:
    """Return a table of the ECE on each subset, the expected ECE in brackets."""
    rows = []
    for name, method in methods.items():
        figures = (method["subsets"][subset] for subset in subsets)
        cells = (f"{_write(one['ece'])} ({_write_mean(one['expected_ece'])})" for one in figures)
        rows.append([name, *cells])
    return table(["method", *subsets], rows)


def summary_line(document: Summary) -> str:
    """Return the first sentence: how much was compared."""
    samples = document["samples"].get(document["full"])
    name = f"{document['name']}: " if document.get("name") else ""
    return (
        f"{name}{len(document['methods'])} methods and reference rows, seeds "
        f"{number_ranges(document['seeds'])}, {samples or 'no'} test samples on full input "
        f"({document['full']})."
    )


def corruption_table(methods: Methods) -> str:
    """Return a table of the accuracy at each level of each corruption; empty if there is none."""
    columns = {
        (modality, corruption): " / ".join(levels)
        for method in methods.values()
        for modality, corruptions in method["corruption"].items()
        for corruption, levels in corruptions.items()
    }
    rows = []
    for name, method in methods.items():
        levels = (method["corruption"][modality][kind].values() for modality, kind in columns)
        rows.append(
            [
                name,
                *(" / ".join(_write_mean(o["accuracy"], 100, 1) for o in one) for one in levels),
            ]
        )
    header = [f"{modality}: {kind} {levels}" for (modality, kind), levels in columns.items()]
    return table(["method", *header], rows) if columns else ""


def prediction_sets(document: Summary) -> Iterator[tuple[str, str]]:
    """Yield the coverage in per cent and its table, for each coverage that was measured."""
    for prefix in ("", "high_"):
        rows, coverage = [], NOT_MEASURED
        for name, method in document["methods"].items():
            figures = [method["subsets"][subset] for subset in document["subsets"]]
            if all(one[f"{prefix}set_size"]["mean"] is None for one in figures):
                continue
            coverage = _write_mean(figures[0][f"{prefix}set_nominal"], 100, 0)
            rows.append([name, *(_prediction_set(one, prefix) for one in figures)])
        if rows:
            yield coverage, table(["method", *document["subsets"]], rows)


def _prediction_set(figures: Summary, prefix: str) -> str:
    size = _write_mean(figures[f"{prefix}set_size"], digits=2)
    return f"{_write(figures[f'{prefix}set_coverage'], SUBSET_MEASURE)}; {size}"


def dimension_sets(methods: Methods) -> list[list[str]]:
    """Return rows with the sizes of the dimension sets."""
    return [
        [f"{name}, {group}", ", ".join(f"{key} {_short(size)}" for key, size in sizes.items())]
        for name, method in methods.items()
        for group, sizes in (method["duc"] or {}).items()
    ]


def setting_rows(methods: Methods) -> list[list[str]]:
    """Return rows with each method's seeds, cost and hyper-parameters."""
    rows = []
    for name, method in methods.items():
        chosen = (
            setting_list({k: v for k, v in one.items() if k not in TRAINING_OUTCOMES})
            for one in method["hyperparameters"]
        )
        settings = "; ".join(dict.fromkeys(chosen)) or NOT_MEASURED
        cost = (_short(method["seconds"]), _short(method["epochs"]))
        rows.append([name, number_ranges(method["seeds"]), *cost, settings])
    return rows


def _column(key: str, path: Sequence[str], prefix: str = "") -> Column:
    measure = MEASURES.get(key, SUBSET_MEASURE)
    title = measure.title if key in MEASURES else key
    if path[0] == "missing":
        title = f"{100 * float(key):g} %"
    return prefix + title, tuple(key if step == "KEY" else step for step in path), measure


def _method_table(methods: Methods, columns: Sequence[Column]) -> str:
    """Return a row per method; the best of a column as written, ties included, is bold."""
    cells = [_cells(path, measure, methods) for _, path, measure in columns]
    rows = ([name, *row] for name, *row in zip(methods, *cells, strict=True))
    return table(["method", *(title for title, *_ in columns)], rows)


def _cells(path: Sequence[str], measure: Measure, methods: Methods) -> list[str]:
    figures = [reduce(getitem, path, method) for method in methods.values()]
    means = [_write_mean(figure, measure.factor, measure.digits) for figure in figures]
    measured = [float(mean) for mean in means if mean != NOT_MEASURED]
    best = (max if measure.higher else min)(measured, default=None)
    return [
        Bold(cell) if mean != NOT_MEASURED and float(mean) == best else cell
        for cell, mean in zip((_write(one, measure) for one in figures), means, strict=True)
    ]


def _write(figure: Summary, measure: Measure = MEASURES["ece_full"]) -> str:
    deviation = "" if figure["std"] is None else f" ± {measure.write(figure['std'])}"
    return _write_mean(figure, measure.factor, measure.digits) + deviation


def _write_mean(figure: Summary, factor: float = 1, digits: int = 4) -> str:
    mean = figure["mean"]
    return NOT_MEASURED if mean is None else f"{factor * mean:.{digits}f}"


def _short(figure: Summary) -> str:
    return _write_mean(figure, digits=1).removesuffix(".0")
