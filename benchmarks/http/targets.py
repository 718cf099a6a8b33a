"""What dimml's service is held to, as ratios of figures measured in the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.http.servers import FASTAPI_ONNX, OURS

Round = Mapping[str, Any]
"""One round of measurements: `servers` (name → cell → figures) and `floor` (a list)."""

ALL = "all"
"""The name of the subset that has every modality."""


DISTURBED = 0.2
"""Cores that other processes may use during a measurement."""


def disturbed(rounds: Sequence[Round]) -> tuple[int, int]:
    """How many measurements other processes disturbed, and of how many."""
    cells = [
        found for one in rounds for cells in one["servers"].values() for found in cells.values()
    ]
    cells += [loop for one in rounds for loop in one["floor"]]
    return sum(found["disturbance"] > DISTURBED for found in cells), len(cells)


def cell(subset: str, connections: int) -> str:
    """The key of one measurement of one server."""
    return f"{subset} @ {connections}"


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest.

    Raises:
        ValueError: there is none.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Target:
    """One promise.

    Attributes:
        text: what is compared.
        bound: the least, or where `at_most` the greatest, median that keeps it.
        ratio: of one round, None where the round lacks a figure.
        at_most: whether smaller is better.
    """

    text: str
    bound: float
    ratio: Callable[[Round], float | None]
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Whether a median keeps the promise."""
        return value <= self.bound if self.at_most else value >= self.bound


def throughput_ratio(
    rival: str, connections: int, subset: str = ALL
) -> Callable[[Round], float | None]:
    """Requests per second of ours over those of a rival, in one round."""

    def ratio(measured: Round) -> float | None:
        key = cell(subset, connections)
        ours = measured["servers"].get(OURS, {}).get(key)
        other = measured["servers"].get(rival, {}).get(key)
        if not ours or not other or not other["per_second"]:
            return None
        return float(ours["per_second"] / other["per_second"])

    return ratio


def floor_ratio(measured: Round) -> float | None:
    """Ours with 32 connections over the best loop of several processes that batches."""
    rates = [f["per_second"] for f in measured["floor"] if f["processes"] > 1 and f["batch"] > 1]
    ours = measured["servers"].get(OURS, {}).get(cell(ALL, 32))
    return ours["per_second"] / max(rates) if ours and rates else None


def tail_ratio(measured: Round) -> float | None:
    """The 99th percentile of ours over its median, with 32 connections."""
    ours = measured["servers"].get(OURS, {}).get(cell(ALL, 32))
    return ours["p99_ms"] / ours["p50_ms"] if ours and ours["p50_ms"] else None


def _throughput(rival: str, connections: int, bound: float) -> Target:
    text = f"req/s at {connections} over {rival}"
    return Target(text, bound, throughput_ratio(rival, connections))


TARGETS = (
    _throughput("FastAPI + PyTorch, tuned", 1, 1.6),
    *(_throughput("FastAPI + PyTorch, default", connections, 4.0) for connections in (8, 32)),
    *(_throughput("FastAPI + PyTorch, tuned", connections, 2.5) for connections in (8, 32)),
    *(_throughput("LitServe + PyTorch, default", connections, 2.5) for connections in (8, 32)),
    *(_throughput(FASTAPI_ONNX, connections, 1.5) for connections in (8, 32)),
    Target("req/s at 32 over the best batched loop without HTTP", 0.65, floor_ratio),
    Target("p99 over p50 at 32", 3.0, tail_ratio, at_most=True),
)


def judge(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Each target with its median ratio over the rounds, its range and whether it was met."""
    found = []
    for target in TARGETS:
        ratios = [value for one in rounds if (value := target.ratio(one)) is not None]
        if not ratios:
            continue
        over = spread(ratios)
        found.append(
            {
                "target": target.text,
                "bound": ("≤ " if target.at_most else "≥ ") + f"{target.bound:g}",
                "median": over.median,
                "low": over.low,
                "high": over.high,
                "met": target.met(over.median),
            }
        )
    return found
