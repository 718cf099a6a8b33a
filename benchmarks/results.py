"""Write the result files of benchmarks, and format the figures in their reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from dimml.files import write_atomic
from dimml.machine import SOURCE_ROOT, describe_machine

RESULTS = SOURCE_ROOT / "benchmarks" / "results"

Document = dict[str, Any]
"""The content of a result file: `machine`, and the figures of one benchmark."""


def write_result(
    name: str,
    figures: Mapping[str, Any],
    report: Callable[[Document], str] | None = None,
    folder: Path = RESULTS,
) -> Document:
    """Write `<name>.json` and, if the benchmark has a report, `<name>.md`.

    Args:
        name: File name without its extension.
        figures: Content of the file. A description of this machine is added if `machine` is absent.
        report: Formats the document as Markdown.
        folder: Destination, created if necessary.

    Returns:
        The document as written.
    """
    document = {"machine": describe_machine(), **figures}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.json", json.dumps(document, indent=2) + "\n")
    if report is not None:
        write_atomic(folder / f"{name}.md", report(document))
    return document


@dataclass(frozen=True)
class Spread:
    """A figure over several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the median and the range of one or more values.

        Raises:
            ValueError: If there are no values.
        """
        values = list(values)
        if not values:
            raise ValueError("nothing was measured")
        return cls(median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        middle, low, high = (format(v, spec) for v in (self.median, self.low, self.high))
        return middle if low == high else f"{middle} ({low} to {high})"


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the processor, memory, system and package versions of a result as one line."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}. {packages}."
    )
