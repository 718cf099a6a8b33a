"""The folder of a comparison: its files, and one result per method and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic

from dimml.errors import UsageError
from dimml.samples import subset_name

SETTINGS = "settings.json"
RESULTS = "results"
TRIALS = "trials"
WORK = "work"
DOCUMENT = "compare.json"
MARKDOWN = "report.md"
PAGE = "report.html"
REPORT_FILES = (DOCUMENT, MARKDOWN, PAGE)

CorruptionKey = tuple[str, str, str]
"""Modality, corruption and level."""


def _number(value: Any) -> Any:
    if value is not None and type(value) not in (int, float):
        raise ValueError("expected a number, or null where nothing was measured")
    return value


def _numeric_keys(table: Any) -> Any:
    for key in table if isinstance(table, dict) else ():
        try:
            float(key)
        except ValueError:
            raise ValueError(f"{key!r} is not a number") from None
    return table


Value = TypeVar("Value")
Number = Annotated[Any, pydantic.PlainValidator(_number)]
# A part that was not measured may be null.
Table = Annotated[dict[str, Value], pydantic.BeforeValidator(lambda value: value or {})]
Figures = Table[Number]
ByNumber = Annotated[Table[Value], pydantic.BeforeValidator(_numeric_keys)]


class Result(pydantic.BaseModel):
    """What one method measured with one seed; a figure that could not be measured is None.

    Attributes:
        method: Name of the method, variant or reference row.
        seconds: Duration of training, calibration and evaluation together.
        validation: Means over subsets, see `train.readout.cross_validate`.
        subsets, missing, corruption, reliability: See `train.compare.protocol.measure_readout`.
        duc: Sizes of the dimension sets, for a method that has them.
        model: The errors of `dimml`, see `train.compare.protocol.describe_errors`.
        modalities: Names in slot order.
        rows: In the file of a trained method, the rows that came out of the same training.
    """

    method: str
    seed: pydantic.StrictInt
    seconds: Number = None
    epochs: Number = None
    hyperparameters: Table[Any] = {}
    machine: Table[Any] = {}
    validation: Figures = {}
    subsets: Table[Figures] = {}
    missing: ByNumber[Figures] = {}
    corruption: Table[Table[ByNumber[Figures]]] = {}
    reliability: Table[Table[list[Any]]] = {}
    duc: dict[str, Figures] | None = None
    model: Table[Any] = {}
    modalities: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    def corrupted(self, key: CorruptionKey) -> Mapping[str, Any]:
        """Return the figures under one corruption; empty if it was not measured."""
        modality, corruption, level = key
        return self.corruption.get(modality, {}).get(corruption, {}).get(level, {})


@dataclass(frozen=True)
class Scope:
    """Everything that any of the results measured, in the order of first appearance.

    A mean over a part of the scope could not be compared, so none is computed.

    Attributes:
        full: Name of the subset of all modalities, which need not be in `subsets`.
        rates: Rates of missing modalities as written, ascending.
    """

    full: str
    subsets: tuple[str, ...]
    rates: tuple[str, ...]
    corruptions: tuple[CorruptionKey, ...]
    seeds: tuple[int, ...]


def modality_names(subset: str) -> list[str]:
    """Split a subset's name, as `dimml.samples.subset_name` joins it."""
    return subset.split("+")


def _size(subset: str) -> int:
    return len(modality_names(subset))


def read_results(folder: Path) -> list[Result]:
    """Read every `results/<method>/seed-<n>.json` of a comparison, by method and seed.

    Raises:
        UsageError: If there is none, a file is invalid, or two are of the same method and seed.
    """
    paths = sorted((folder / RESULTS).glob("*/seed-*.json"))
    if not paths:
        raise UsageError(
            f"{folder / RESULTS}: no <method>/seed-<n>.json; run "
            f"`dimml compare RECIPE --out {folder}`"
        )
    results: dict[tuple[str, int], Result] = {}
    for path in paths:
        result = read_result(path)
        if (key := (result.method, result.seed)) in results:
            raise UsageError(f"{path}: a second result of {key[0]}, seed {key[1]}; remove one")
        results[key] = result
    return [results[key] for key in sorted(results)]


def read_result(path: Path) -> Result:
    """Read one result.

    Raises:
        UsageError: If the file is not a result; the message names the file and the field.
    """
    try:
        # NaN and infinity stand for figures that could not be measured.
        return Result.model_validate(json.loads(path.read_bytes(), parse_constant=lambda _: None))
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"])) or "the file"
        reason = f"{field}: {problem['msg'].removeprefix('Value error, ')}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UsageError(f"{path}: {reason}; remove it and run `dimml compare` again")


def measured_scope(results: Sequence[Result]) -> Scope:
    """Return what the results measured between them.

    Raises:
        UsageError: If no result measured any subset.
    """
    subsets = list(dict.fromkeys(name for result in results for name in result.subsets))
    if not subsets:
        raise UsageError("no result measured a subset; run `dimml compare` again")
    subsets.sort(key=_size)
    modalities = next((result.modalities for result in results if result.modalities), None)
    return Scope(
        full=subset_name(modalities) if modalities else max(subsets, key=_size),
        subsets=tuple(subsets),
        rates=tuple(sorted({rate for r in results for rate in r.missing}, key=float)),
        corruptions=tuple(dict.fromkeys(_corruption_keys(results))),
        seeds=tuple(sorted({result.seed for result in results})),
    )


def stored_settings(folder: Path) -> dict[str, Any]:
    """Return what a folder's results have in common; empty if `settings.json` is unreadable."""
    try:
        settings = json.loads((folder / SETTINGS).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _corruption_keys(results: Sequence[Result]) -> Iterable[CorruptionKey]:
    for result in results:
        for modality, corruptions in result.corruption.items():
            for corruption, levels in corruptions.items():
                for level in sorted(levels, key=float):
                    yield modality, corruption, level
