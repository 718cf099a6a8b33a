"""Measure the time of each stage from no data to a served bundle, and the accuracy on the digits.

Run `python -m benchmarks.accuracy.digits`; writes `benchmarks/results/digits.json`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.options import benchmark_parser
from benchmarks.results import write_result

RECIPE = "train/recipes/digits.yaml"


def main() -> None:
    """Run the four commands of `make serve` in a temporary folder."""
    benchmark_parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, run, bundle = (Path(name) / part for part in ("data", "run", "bundle"))
        table = data / "manifest.parquet"
        stages = {
            "data": ["data", "digits", data],
            "train": ["train", RECIPE, "--set", f"data={table}", "--out", run],
            "export": ["export", run, bundle],
            "evaluate": ["evaluate", bundle, table],
        }
        seconds = {stage: _seconds(arguments) for stage, arguments in stages.items()}
        evaluation = json.loads((bundle / "evaluation.json").read_text())
    write_result("digits", {"seconds": seconds, "evaluation": evaluation})
    sys.stdout.write(json.dumps(seconds) + "\n")


def _seconds(arguments: list[Any]) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "dimml", *map(str, arguments)], check=True)
    return round(time.monotonic() - started, 1)


if __name__ == "__main__":
    main()
