"""The measurements of a run, one row per epoch, through stops and resumes."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning

from dimml.files import write_atomic
from dimml.progress import print_status
from train.module import BEST

METRICS = "metrics.csv"


class History(lightning.Callback):
    """Writes `metrics.csv` after each epoch and says how it went.

    Lightning's own CSV logger starts an empty file when a run is resumed; this one's rows are in
    the checkpoint.

    Attributes:
        rows: epoch and metrics.
        seconds: of all epochs, validation included.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self._started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self.seconds = state_dict.get("seconds", 0.0)

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._started = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.monotonic() - self._started
        self.seconds += seconds
        self.rows.append({"epoch": trainer.current_epoch, **dict(sorted(metrics.items()))})
        columns = sorted({name for row in self.rows for name in row} - {"epoch"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["epoch", *columns], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.folder / METRICS, text.getvalue())
        print_status(
            f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}: "
            f"loss {metrics['train_loss']:.3f}, {BEST} {metrics[BEST]:.4f}, "
            f"{seconds:.1f} s"
        )
