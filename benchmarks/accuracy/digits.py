"""From nothing to a served bundle on the digits data: how long each stage takes, how good it is.

Run as `python -m benchmarks.accuracy.digits`; writes `benchmarks/results/digits.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dimml.machine import describe_machine

RESULT = Path(__file__).parents[1] / "results" / "digits.json"
RECIPE = "train/recipes/digits.yaml"


def main() -> None:
    """Runs the four commands of `make serve` in a folder of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, run, bundle = folder / "data", folder / "run", folder / "bundle"
        table = data / "manifest.parquet"
        stages = {
            "data": ["data", "digits", data],
            "train": ["train", RECIPE, "--set", f"data={table}", "--out", run],
            "export": ["export", run, bundle],
            "evaluate": ["evaluate", bundle, table],
        }
        seconds = {stage: _seconds(arguments) for stage, arguments in stages.items()}
        evaluation = json.loads((bundle / "evaluation.json").read_text())
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "seconds": seconds,
        "evaluation": evaluation,
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(json.dumps(seconds) + "\n")


def _seconds(arguments: list[Any]) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "dimml", *map(str, arguments)], check=True)
    return round(time.monotonic() - started, 1)


if __name__ == "__main__":
    main()
