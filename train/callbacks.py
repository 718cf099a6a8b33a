"""Callbacks of the training loop: the history of a run, early stopping, checkpoints that move."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from dimml.files import write_atomic
from dimml.progress import print_status
from train.module import BEST

METRICS = "metrics.csv"


class History(lightning.Callback):
    """Writes `metrics.csv` after each epoch and reports the epoch.

    Lightning's own CSV logger starts an empty file when a run is resumed. The rows of this callback
    are part of the checkpoint.

    Attributes:
        rows: The epoch and the metrics of each finished epoch.
        seconds: Duration of all epochs, validation included.
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
        self.seconds = state_dict["seconds"]

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


class Patience(EarlyStopping):
    """Stops a training without progress, also one that was interrupted after its last epoch."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # A resumed training has the counter of the checkpoint, and Lightning would train one epoch.
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self.stopped_epoch and trainer.is_global_zero:
            print_status(f"training stops: {self.patience} epochs without a better {BEST}")


class RunCheckpoint(ModelCheckpoint):
    """A checkpoint in the folder of a run, which may be moved before the run is resumed."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        # At the end of the training epoch its row is already in the history.
        options |= {"enable_version_counter": False, "save_on_train_epoch_end": True}
        super().__init__(folder, name, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning stores absolute paths, and forgets the best score if the folder has moved.
        def relocate(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: relocate(state_dict[name]) for name in paths}
        scores = {relocate(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath}
        )
