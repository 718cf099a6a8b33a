"""The targets of dimml's service, as ratios of figures from the same round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.http.servers import FASTAPI_ONNX, OURS
from benchmarks.results import Spread

Round = Mapping[str, Any]
"""One round of measurements: `servers` (name → cell → figures) and `floor` (a list of loops)."""

ALL = "all"
"""The name of the subset that has every modality."""

MAX_DISTURBANCE_CORES = 0.2
"""Cores that other processes may use during a measurement."""


def disturbed(rounds: Sequence[Round]) -> tuple[int, int]:
    """Return how many measurements other processes disturbed, and how many there are."""
    shares = [
        figures["disturbance"]
        for one in rounds
        for cells in (*one["servers"].values(), dict(enumerate(one["floor"])))
        for figures in cells.values()
    ]
    return sum(share > MAX_DISTURBANCE_CORES for share in shares), len(shares)


def cell(subset: str, connections: int) -> str:
    """Return the key of one measurement of one server."""
    return f"{subset} @ {connections}"


@dataclass(frozen=True)
class Target:
    """A limit on the median of a ratio.

    Attributes:
        text: The ratio in words.
        bound: Smallest median that meets the target, or the largest with `at_most`.
        ratio: Computes the ratio of one round; None if the round lacks a figure.
        at_most: Whether smaller is better.
    """

    text: str
    bound: float
    ratio: Callable[[Round], float | None]
    at_most: bool = False

    def met(self, value: float) -> bool:
        """Return whether a median meets the target."""
        return value <= self.bound if self.at_most else value >= self.bound


def throughput_ratio(
    rival: str, connections: int, subset: str = ALL
) -> Callable[[Round], float | None]:
    """Return a function for the ratio of dimml's throughput to a rival's in one round."""

    def ratio(measured: Round) -> float | None:
        key = cell(subset, connections)
        ours = measured["servers"].get(OURS, {}).get(key)
        other = measured["servers"].get(rival, {}).get(key)
        if not ours or not other or not other["per_second"]:
            return None
        return float(ours["per_second"] / other["per_second"])

    return ratio


def floor_ratio(measured: Round) -> float | None:
    """Return dimml's throughput at 32 connections over that of the best batched loop."""
    rates = [f["per_second"] for f in measured["floor"] if f["processes"] > 1 and f["batch"] > 1]
    ours = measured["servers"].get(OURS, {}).get(cell(ALL, 32))
    return ours["per_second"] / max(rates) if ours and rates else None


def tail_ratio(measured: Round) -> float | None:
    """Return dimml's 99th percentile of latency over its median, at 32 connections."""
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
    """Return the measured targets, each with its median ratio, its range, and whether it is met."""
    verdicts = []
    for target in TARGETS:
        ratios = [value for one in rounds if (value := target.ratio(one)) is not None]
        if not ratios:
            continue
        over = Spread.of(ratios)
        verdicts.append(
            {
                "target": target.text,
                "bound": ("≤ " if target.at_most else "≥ ") + f"{target.bound:g}",
                **asdict(over),
                "met": target.met(over.median),
            }
        )
    return verdicts
