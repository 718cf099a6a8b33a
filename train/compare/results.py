"""The results of a comparison as they lie on disk: one JSON file per method and seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.errors import UsageError
from dimml.samples import subset_name

RESULTS = "results"
TABLES = {
    "hyperparameters": 0,
    "machine": 0,
    "validation": 0,
    "subsets": 1,
    "missing": 1,
    "reliability": 1,
    "corruption": 3,
}
"""Fields, and how deep tables lie in them; null instead of a table is an empty one."""
Corruption = tuple[str, str, str]
"""Modality, kind of corruption, level."""


@dataclass(frozen=True)
class Result:
    """What one method measured with one seed. A figure that could not be measured is None.

    Attributes:
        method: its name.
        seed: of the training.
        seconds: of training, calibration and evaluation together.
        epochs: trained.
        hyperparameters: as chosen on validation.
        machine: what it ran on.
        validation: accuracy and nll, means over subsets on rows that calibration did not see.
        subsets: subset name to accuracy, nll, ece, risk_coverage_area; set_coverage, set_size and
            set_nominal of prediction sets, and with `high_` before them those of a high coverage;
            set_rows, on which the sets' thresholds were fitted.
        missing: rate to accuracy, nll, ece.
        corruption: modality to kind to level to accuracy, nll, ece, weight, confidence.
        reliability: subset name to confidence, accuracy and count per bin.
        duc: sizes of the dimension sets; None for a method without any.
        modalities: names in order; empty where the file does not say.
        rows: all methods whose results came out of the same training, in this one's own file.
    """

    method: str
    seed: int
    seconds: float | None
    epochs: int | None
    hyperparameters: Mapping[str, Any]
    machine: Mapping[str, Any]
    validation: Mapping[str, Any]
    subsets: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, Mapping[str, Any]]
    corruption: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
    reliability: Mapping[str, Mapping[str, list[Any]]]
    duc: Mapping[str, Mapping[str, Any]] | None
    modalities: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    def corrupted(self, key: Corruption) -> Mapping[str, Any]:
        """The figures under one corruption; empty if it was not measured."""
        modality, kind, level = key
        return self.corruption.get(modality, {}).get(kind, {}).get(level, {})


@dataclass(frozen=True)
class Scope:
    """All that any of the results measured, in the order of their first appearance.

    A mean over less than the whole of it is not comparable, so it is not made.

    Attributes:
        full: the subset of all modalities, which may not be among `subsets`.
        subsets: names of those that rows of the test split have.
        rates: of missing modalities, as written and ascending.
        corruptions: every modality, kind and level.
        seeds: ascending.
    """

    full: str
    subsets: tuple[str, ...]
    rates: tuple[str, ...]
    corruptions: tuple[Corruption, ...]
    seeds: tuple[int, ...]

    @property
    def singles(self) -> tuple[str, ...]:
        """The subsets of one modality."""
        return tuple(name for name in self.subsets if len(modalities(name)) == 1)


def modalities(subset: str) -> list[str]:
    """The names that `dimml.samples.subset_name` joined."""
    return subset.split("+")


def read_results(out: Path) -> list[Result]:
    """Every `results/<method>/seed-<n>.json`, by method and seed.

    Raises:
        UsageError: there is none, one cannot be read, or two are of the same method and seed.
    """
    paths = sorted((out / RESULTS).glob("*/seed-*.json"))
    if not paths:
        raise UsageError(
            f"{out / RESULTS}: no <method>/seed-<n>.json; run `dimml compare RECIPE --out {out}`"
        )
    found: dict[tuple[str, int], Result] = {}
    for path in paths:
        result = read_result(path)
        if (key := (result.method, result.seed)) in found:
            raise UsageError(f"{path}: a second result of {key[0]}, seed {key[1]}; remove one")
        found[key] = result
    return [found[key] for key in sorted(found)]


def read_result(path: Path) -> Result:
    """One result.

    Raises:
        UsageError: it is not a JSON object with a method and a seed, or a figure is no number.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; remove it and run `dimml compare` again") from error
    fields = clean(content)
    if not isinstance(fields, dict) or not _named(fields):
        raise UsageError(f"{path}: no object with a method and a seed; remove it and compare again")
    if wrong := next(_wrong(fields), None):
        raise UsageError(f"{path}: {wrong}; remove it and run `dimml compare` again")
    return Result(
        modalities=tuple(fields.get("modalities") or ()),
        rows=tuple(fields.get("rows") or ()),
        method=fields["method"],
        seed=fields["seed"],
        seconds=fields.get("seconds"),
        epochs=fields.get("epochs"),
        duc=fields.get("duc"),
        **{name: _tables(fields.get(name), depth) for name, depth in TABLES.items()},
    )


def clean(value: Any) -> Any:
    """A JSON value without its NaN and infinities (None instead)."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    return value


def scope_of(results: Sequence[Result]) -> Scope:
    """What the results measured between them.

    Raises:
        UsageError: none measured any subset.
    """
    subsets = tuple(dict.fromkeys(name for result in results for name in result.subsets))
    if not subsets:
        raise UsageError("no result measured a subset; run `dimml compare` again")
    rates = {rate for result in results for rate in result.missing}
    all_modalities = next((r.modalities for r in results if r.modalities), None)
    return Scope(
        full=(
            subset_name(all_modalities)
            if all_modalities
            else max(subsets, key=lambda name: len(modalities(name)))
        ),
        subsets=tuple(sorted(subsets, key=lambda name: len(modalities(name)))),
        rates=tuple(sorted(rates, key=float)),
        corruptions=tuple(dict.fromkeys(_corruptions(results))),
        seeds=tuple(sorted({result.seed for result in results})),
    )


def _tables(value: Any, depth: int) -> dict[str, Any]:
    table = value if isinstance(value, dict) else {}
    return {key: _tables(item, depth - 1) for key, item in table.items()} if depth else table


def _wrong(fields: Mapping[str, Any]) -> Iterator[str]:
    """What is of a wrong type, in words."""
    numbers = [("seconds", fields.get("seconds")), ("epochs", fields.get("epochs"))]
    for name in ("validation", "subsets", "missing", "corruption"):
        numbers += _leaves(_tables(fields.get(name), TABLES[name]), name)
    for place, value in numbers:
        if value is not None and type(value) not in (int, float):
            yield f"{place} is no number"
    levels = [
        level
        for kinds in _tables(fields.get("corruption"), 2).values()
        for table in kinds.values()
        for level in table
    ]
    for name in [*_tables(fields.get("missing"), 0), *levels]:
        try:
            float(name)
        except ValueError:
            yield f"{name!r} is no rate or level"


def _leaves(table: Mapping[str, Any], place: str) -> list[tuple[str, Any]]:
    found = []
    for key, value in table.items():
        inner = f"{place}.{key}"
        found += _leaves(value, inner) if isinstance(value, Mapping) else [(inner, value)]
    return found


def _corruptions(results: Sequence[Result]) -> Iterable[Corruption]:
    for result in results:
        for modality, kinds in result.corruption.items():
            for kind, levels in kinds.items():
                for level in sorted(levels, key=float):
                    yield modality, kind, level


def _named(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields.get("method"), str) and type(fields.get("seed")) is int
