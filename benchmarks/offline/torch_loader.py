"""Score samples as plain PyTorch code does: a `DataLoader`, an eager model and a loop.

Reads samples as JSON from standard input, and prints the rows per second as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.http.rivals.models import torch_predictor
from dimml.machine import available_cores

BATCH = 64


def main() -> None:
    """Measure once."""
    run, rows = Path(sys.argv[1]), int(sys.argv[2])
    predictor = torch_predictor(run, run.parent / "bundle")
    samples = list(islice(cycle(json.load(sys.stdin)), rows))
    # The processes of the loader decode and preprocess, and the model runs in this one.
    loader: DataLoader[dict[str, Any]] = DataLoader(
        samples,
        BATCH,
        num_workers=available_cores(),
        collate_fn=lambda batch: [predictor.prepare(sample, "error") for sample in batch],
    )
    rows_timed, started = 0, None
    for batch in loader:
        predictor.predict_prepared(batch)
        if started is None:
            # The first batch also pays for the start of the processes.
            started = time.perf_counter()
        else:
            rows_timed += len(batch)
    seconds = time.perf_counter() - (started or 0.0)
    sys.stdout.write(json.dumps({"per_second": rows_timed / seconds}) + "\n")


if __name__ == "__main__":
    main()
