"""Offline scoring as it is usually written: a `DataLoader`, an eager model, a loop.

Reads samples as JSON from standard input; prints rows per second as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from benchmarks.http.rivals.torch_model import Input, TorchModel
from dimml.machine import available_cores

BATCH = 64


class Samples(Dataset[Input]):
    """Samples that are decoded and preprocessed in the loader's processes."""

    def __init__(self, model: TorchModel, samples: list[dict[str, Any]]) -> None:
        self._prepare = model.prepare
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Input:
        return self._prepare(self._samples[index])


def main() -> None:
    """Measures once."""
    run, rows = Path(sys.argv[1]), int(sys.argv[2])
    model = TorchModel(run, run.parent / "bundle")
    samples = list(islice(cycle(json.load(sys.stdin)), rows))
    loader = DataLoader(
        Samples(model, samples), BATCH, num_workers=available_cores(), collate_fn=list
    )
    answers: list[Any] = []
    started = 0.0
    for batch in loader:
        found = model.predict(batch)
        if started:
            answers += found
        else:
            started = time.perf_counter()
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"per_second": len(answers) / seconds}) + "\n")


if __name__ == "__main__":
    main()
