"""Lightning's training loop around a run: loaders, checkpoints, stopping and resuming."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from dimml.modalities import Kind
from dimml.progress import say
from dimml.runtime import available_cores
from train.cache import Split
from train.config import Recipe
from train.data import Collate, EpochSampler, SplitDataset
from train.folder import LAST
from train.history import History
from train.module import BEST, DetachedModule


class RunData(lightning.LightningDataModule):
    """The loaders of a run; every order and change follows from the seed and the epoch."""

    def __init__(self, recipe: Recipe, kinds: Mapping[str, Kind], train: Split, val: Split) -> None:
        super().__init__()
        self.recipe, self.kinds, self.train, self.val = recipe, kinds, train, val

    def train_dataloader(self) -> Any:
        strengths = {name: spec.augment for name, spec in self.recipe.modalities.items()}
        return self._loader(self.train, strengths, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val, {}, training=False)

    def plain_train_dataloader(self) -> Any:
        """The training split in order and unchanged."""
        return self._loader(self.train, {}, training=False)

    def _loader(self, split: Split, strengths: Mapping[str, float], training: bool) -> Any:
        config = self.recipe.training
        workers = config.workers if training else 0
        return DataLoader(
            SplitDataset(split, self.kinds, strengths, self.recipe.seed),
            batch_size=config.batch_size,
            sampler=EpochSampler(len(split), self.recipe.seed, shuffle=training),
            collate_fn=Collate(self.kinds, training),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )


def fit(module: DetachedModule, data: RunData, folder: Path, resume: bool) -> dict[str, Any]:
    """Trains, leaves the best epoch's weights in the module, and says which epoch that was.

    Raises:
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
    """
    _quieten()
    if "OMP_NUM_THREADS" not in os.environ:
        # By itself PyTorch counts the machine's cores, not those that this process may use.
        torch.set_num_threads(available_cores())
    best = _Checkpoint(folder, "best", monitor=BEST, mode="max", save_weights_only=True)
    bar = [RichProgressBar(leave=False)] if sys.stderr.isatty() else []
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=module.recipe.training.epochs,
        callbacks=[History(folder), best, _Checkpoint(folder, "last"), *bar],
        enable_progress_bar=bool(bar),
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    state = folder / LAST if resume else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except (SystemExit, SIGTERMException):
        # Lightning's answer to Ctrl-C is to exit with 1.
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    checkpoint = torch.load(folder / "best.ckpt", weights_only=True, map_location="cpu")
    module.load_state_dict(checkpoint["state_dict"])
    score = float(best.best_model_score or 0.0)
    say(f"best epoch: {checkpoint['epoch'] + 1} with {BEST} {score:.4f}")
    return {"epoch": checkpoint["epoch"], BEST: score}


class _Checkpoint(ModelCheckpoint):
    """A checkpoint of the run's folder, also after that was moved."""

    def __init__(self, folder: Path, name: str, **options: Any) -> None:
        # At the end of the training epoch, when its row is in the history.
        options |= {"enable_version_counter": False, "save_on_train_epoch_end": True}
        super().__init__(folder, name, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning keeps absolute paths, and forgets the best score when they are others.
        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in paths}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath}
        )


def _quieten() -> None:
    """Leaves Lightning's warnings that a person can act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        # Of its own use of torch.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message)
