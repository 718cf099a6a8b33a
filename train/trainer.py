"""Lightning's training loop around a run: loaders, checkpoints, stopping and resuming."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.utils.data import DataLoader

from dimml.errors import TrainingError, UsageError
from dimml.machine import available_cores
from dimml.modalities import Kind
from dimml.progress import print_status
from train.data.cache import Split
from train.data.loader import Collate, EpochSampler, SplitDataset
from train.data.splits import labelled_rows, training_rows
from train.folder import LAST
from train.history import History
from train.methods.base import Method
from train.module import BEST, TrainingModule
from train.recipe import Recipe, TrainingConfig

BEST_CHECKPOINT = "best.ckpt"


class RunData(lightning.LightningDataModule):
    """The loaders of a run; every order and change follows from the seed and the epoch.

    Args:
        recipe: of the run.
        kinds: the modalities.
        splits: "train" and "validation".
        unlabelled: whether training sees the rows of the train split that have no label, if its
            DUC loss ever joins.
    """

    def __init__(
        self,
        recipe: Recipe,
        kinds: Mapping[str, Kind],
        splits: Mapping[str, Split],
        unlabelled: bool,
    ) -> None:
        super().__init__()
        config = recipe.training
        self.recipe, self.kinds = recipe, kinds
        self.unlabelled = unlabelled and config.lambda_duc > 0 and config.warm_up < config.epochs
        self.train, self.val = splits["train"], splits["validation"]

    def train_dataloader(self) -> Any:
        strengths = {name: spec.augment for name, spec in self.recipe.modalities.items()}
        rows = training_rows(self.train.labels, self.unlabelled)
        return self._loader(self.train, rows, strengths, training=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val, labelled_rows(self.val.labels), {}, training=False)

    def plain_train_dataloader(self) -> Any:
        """The labelled rows of the training split in order and unchanged."""
        return self._loader(self.train, labelled_rows(self.train.labels), {}, training=False)

    def _loader(
        self, split: Split, rows: np.ndarray, strengths: Mapping[str, float], training: bool
    ) -> Any:
        config = self.recipe.training
        workers = config.workers if training else 0
        devices = config.devices if training else 1
        # Where nothing is shuffled, each device reads all: it has to know every feature.
        share = (self.trainer.global_rank if devices > 1 else 0, devices, config.batch_size)
        return DataLoader(
            SplitDataset(split, self.kinds, strengths, self.recipe.seed, rows),
            batch_size=config.batch_size // devices,
            sampler=EpochSampler(len(rows), self.recipe.seed, training, share),
            collate_fn=Collate(self.kinds, training),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )


def fit(module: TrainingModule, data: RunData, folder: Path, resume: bool) -> dict[str, Any]:
    """Trains, leaves the best epoch's weights in the module, and says which epoch that was.

    With several devices this is called in a process for each, and the answer of all but the first
    is empty.

    Raises:
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM.
        UsageError: the checkpoint is damaged.
        TrainingError: it diverged, or the process of another device ended.
    """
    config = module.recipe.training
    _quieten()
    if "OMP_NUM_THREADS" not in os.environ:
        # By itself PyTorch counts the machine's cores, not those that this process may use.
        torch.set_num_threads(max(1, available_cores() // config.devices))
    best = _Checkpoint(folder, "best", monitor=BEST, mode="max", save_weights_only=True)
    bar = [RichProgressBar(leave=False)] if sys.stderr.isatty() else []
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=config.devices,
        # A batch may lack a modality, and then its encoder gets no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if config.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=config.precision,
        max_epochs=config.epochs,
        callbacks=[History(folder), best, _Checkpoint(folder, "last"), *bar],
        enable_progress_bar=bool(bar),
        logger=TensorBoardLogger(folder, name="", version="tensorboard"),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )
    _train(trainer, module, data, folder / LAST if resume else None)
    if not trainer.is_global_zero:
        return {}
    checkpoint = load_checkpoint(folder / BEST_CHECKPOINT)
    module.load_state_dict(checkpoint["state_dict"])
    score = float(best.best_model_score or 0.0)
    print_status(f"best epoch: {checkpoint['epoch'] + 1} with {BEST} {score:.4f}")
    return {"epoch": checkpoint["epoch"], BEST: score}


def _train(
    trainer: lightning.Trainer, module: TrainingModule, data: RunData, state: Path | None
) -> None:
    """Lightning's training with errors of ours, from the checkpoint `state` on; see `fit`."""
    if state:
        for path in (state, state.with_name(BEST_CHECKPOINT)):
            load_checkpoint(path)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except (SystemExit, SIGTERMException):
        # Lightning's answer to Ctrl-C is to exit with 1.
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    except RuntimeError as error:
        if trainer.world_size == 1 or "onnection" not in str(error):
            raise
        raise TrainingError(
            "another process of this training ended (see above); the same command with --resume "
            "goes on from the last whole epoch"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of Lightning.

    Raises:
        UsageError: it is damaged.
    """
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many kinds of a damaged file
        raise UsageError(
            f"{path} is missing or damaged and cannot be resumed from; remove its folder and "
            "start again"
        ) from error
    return found


def check_machine(config: TrainingConfig, method: type[Method]) -> None:
    """Refuses what the machine or the method cannot do.

    Raises:
        UsageError: there are no such devices or precision, or the method cannot use them.
    """
    gpus = torch.cuda.device_count()
    if config.precision == "16-mixed" and not gpus:
        raise UsageError(
            "training.precision=16-mixed needs a GPU, and PyTorch finds none; use bf16-mixed or "
            "32-true"
        )
    if gpus and config.devices > gpus:
        raise UsageError(f"training.devices={config.devices}, and PyTorch finds {gpus} GPUs")
    if method.alternates and (config.devices > 1 or config.precision == "16-mixed"):
        raise UsageError(
            "this method takes its optimizer's steps itself: train it with training.devices=1 and "
            "training.precision=32-true or bf16-mixed"
        )


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
        ".*all_gather.* is deprecated",
        # Each device logs what all of them know, and not each method has a use for every head.
        ".*sync_dist=True.*",
        ".*find_unused_parameters=True.*",
    ):
        warnings.filterwarnings("ignore", message)
