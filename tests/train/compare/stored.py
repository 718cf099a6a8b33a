"""Results of a comparison, as their files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.compare.report import report_markdown
from train.compare.summary import summarise

ODD = "a|b_*c* <script>alert(1)</script> [x](http://x) & `d`"


def result(method: str, seed: int, full: float, single: float, **changes: Any) -> dict[str, Any]:
    figure = {"nll": 0.5, "ece": 0.01, "risk_coverage_area": 0.02}
    bins = {"confidence": [0.9], "accuracy": [0.9], "count": [100]}
    subsets = {"audio": single, "image": single + 0.1, "audio+image": full}
    return {
        "method": method,
        "seed": seed,
        "seconds": 61.24,
        "epochs": 12,
        "hyperparameters": {"learning_rate": 0.001},
        "machine": {"processor": "A Processor", "cores": 2},
        "subsets": {
            name: {"samples": 100, "accuracy": accuracy, **figure}
            for name, accuracy in subsets.items()
        },
        "missing": {rate: {"accuracy": full, "nll": 0.5, "ece": 0.01} for rate in ("0.0", "0.5")},
        "corruption": {"audio": {"noise": {"1": {"accuracy": full - 0.1, "weight": 0.3}}}},
        "reliability": dict.fromkeys(subsets, bins),
        "duc": {"effective": {"audio": 8}, "selected": {"audio->image": 3}},
        **changes,
    }


def write(out: Path, *results: dict[str, Any]) -> Path:
    for number, one in enumerate(results):
        path = out / "results" / str(number) / f"seed-{one['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(one))
    return out


def markdown(out: Path, *results: dict[str, Any]) -> str:
    """Return the report of these results, without drawing its figures."""
    return report_markdown(summarise(write(out, *results)))


def compared() -> list[dict[str, Any]]:
    """`dimml` is 4 points ahead with one modality, and 2 behind on full input."""
    ours = [result("dimml", s, 0.90 + 0.001 * s, 0.70 + 0.002 * s) for s in range(3)]
    theirs = [result("joint", s, 0.92 + 0.002 * s, 0.66 + 0.001 * s) for s in range(3)]
    return [*ours, *theirs]
