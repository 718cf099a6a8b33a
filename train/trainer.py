"""The training of a model: from seed to best epoch, with checkpoints, stopping and resuming."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException

from dimml.errors import TrainingError, UsageError
from dimml.files import write_atomic
from dimml.machine import available_cores
from dimml.nn.model import MultimodalModel
from dimml.progress import print_status
from train.callbacks import History, Patience, RunCheckpoint
from train.data.loader import RunData
from train.data.prepare import PreparedData
from train.encoders import build_model, training_encoders
from train.loggers import open_logger
from train.methods.base import Method, balanced_weights
from train.module import BEST, TrainingModule, encode
from train.pretrained.tuning import merge_lora
from train.recipe import Recipe
from train.training_config import TrainingConfig

BEST_CHECKPOINT = "best.ckpt"
LAST = "last.ckpt"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model that is not calibrated yet.

    Attributes:
        model: The model, on the CPU, in eval mode, with the weights of the best epoch.
        method: The method, after its `finish`.
        data: The loaders of the run.
        best: The best epoch and its score; empty except in the first of several processes.
    """

    model: MultimodalModel
    method: Method
    data: RunData
    best: Mapping[str, Any]


def train_model(
    recipe: Recipe,
    prepared: PreparedData,
    folder: Path,
    resume: bool,
    documents: Mapping[str, str] | None = None,
) -> TrainedModel:
    """Build a model and its method from the recipe's seed, and train them.

    Args:
        recipe: The recipe of the run.
        prepared: The data of the recipe.
        folder: Folder of the checkpoints.
        resume: Whether to continue from the last checkpoint in the folder.
        documents: Files to write into the folder once the model is built, so that a recipe whose
            model cannot be built leaves nothing there.

    Raises:
        KeyboardInterrupt: If Ctrl-C or SIGTERM stops the training.
        UsageError: If a checkpoint is damaged.
        TrainingError: If training diverges, or the process of another device ends.
    """
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    model, method = build_model(recipe, training_encoders(recipe, prepared), len(prepared.labels))
    if recipe.training.class_weights:
        labels = torch.from_numpy(prepared.splits["train"].labels)
        method.class_weights = balanced_weights(labels, len(prepared.labels))
    unlabelled = method.uses_unlabelled(recipe.training.epochs)
    data = RunData(recipe, prepared.stored, prepared.splits, unlabelled)
    module = TrainingModule(model, recipe, method)
    folder.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        for name, text in (documents or {}).items():
            write_atomic(folder / name, text)
    best = fit(module, data, folder, resume)
    module.cpu().eval()
    merge_lora(model)
    if best and method.finishes:
        method.finish(model, encode(model, data.plain_train_dataloader()))
    return TrainedModel(model, method, data, best)


def is_first_process() -> bool:
    """Return whether this process trains on the first device, or on the only one."""
    return not getattr(rank_zero_only, "rank", 0)


def fit(module: TrainingModule, data: RunData, folder: Path, resume: bool) -> dict[str, Any]:
    """Train a module, load the weights of its best epoch, and return that epoch and its score.

    With several devices, each of them runs this function in its own process, and all processes but
    the first return an empty result. See `train_model` for the errors.
    """
    config = module.recipe.training
    _silence_warnings()
    if "OMP_NUM_THREADS" not in os.environ:
        # PyTorch counts the cores of the machine, not those that this process may use.
        torch.set_num_threads(max(1, available_cores() // config.devices))
    best = RunCheckpoint(folder, "best", monitor=BEST, mode="max", save_weights_only=True)
    with open_logger(module.recipe, folder, resume) as logger:
        trainer = _trainer(module, [History(folder), best, RunCheckpoint(folder, "last")], logger)
        _train(trainer, module, data, folder / LAST if resume else None)
    if not trainer.is_global_zero:
        return {}
    checkpoint = load_checkpoint(folder / BEST_CHECKPOINT)
    module.load_state_dict(checkpoint["state_dict"])
    score = float(best.best_model_score or 0.0)
    print_status(f"best epoch: {checkpoint['epoch'] + 1} with {BEST} {score:.4f}")
    return {"epoch": checkpoint["epoch"], BEST: score}


def _trainer(
    module: TrainingModule, callbacks: list[lightning.Callback], logger: Logger | None
) -> lightning.Trainer:
    """Return Lightning's trainer for a recipe."""
    config = module.recipe.training
    if config.patience:
        callbacks.append(Patience(BEST, patience=config.patience, mode="max"))
    bar = [RichProgressBar(leave=False)] if sys.stderr.isatty() else []
    return lightning.Trainer(
        accelerator="auto",
        devices=config.devices,
        # A batch may lack a modality, and then its encoder gets no gradient.
        strategy=DDPStrategy(find_unused_parameters=True) if config.devices > 1 else "auto",
        use_distributed_sampler=False,
        precision=config.precision,
        # Lightning clips only where it steps the optimizer; the module does the other cases.
        gradient_clip_val=None if module.method.alternates else module.gradient_clip,
        max_epochs=config.epochs,
        callbacks=[*callbacks, *bar],
        enable_progress_bar=bool(bar),
        logger=logger or False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
    )


def _train(
    trainer: lightning.Trainer, module: TrainingModule, data: RunData, state: Path | None
) -> None:
    """Run Lightning's training, from the checkpoint `state` if there is one."""
    if state:
        for path in (state, state.with_name(BEST_CHECKPOINT)):
            load_checkpoint(path)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=state, weights_only=True)
    except (SystemExit, SIGTERMException):
        # Lightning turns Ctrl-C into an exit with status 1.
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from None
    except RuntimeError as error:
        if trainer.world_size == 1 or "onnection" not in str(error):
            raise
        raise TrainingError(
            "another process of this training ended (see above); run the same command with "
            "--resume to continue from the last whole epoch"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of Lightning.

    Raises:
        UsageError: If the checkpoint is missing or damaged.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises many types of error for a damaged file
        raise UsageError(
            f"{path} is missing or damaged and cannot be resumed from; remove its folder and "
            "start again"
        ) from error
    return checkpoint


def check_machine(config: TrainingConfig, method: type[Method]) -> None:
    """Reject devices and a precision that the machine or the method cannot use.

    Raises:
        UsageError: If the machine lacks the devices or the precision, or the method cannot use
            them.
    """
    gpus = torch.cuda.device_count()
    if config.precision == "16-mixed" and not gpus:
        raise UsageError(
            "training.precision=16-mixed needs a GPU, and PyTorch finds none; set "
            "training.precision to bf16-mixed or 32-true"
        )
    if gpus and config.devices > gpus:
        raise UsageError(
            f"training.devices={config.devices}, but PyTorch finds {gpus} GPUs; lower it"
        )
    if method.alternates and (config.devices > 1 or config.precision == "16-mixed"):
        raise UsageError(
            "this method steps the optimizer itself; train it with training.devices=1 and "
            "training.precision=32-true or bf16-mixed"
        )


def _silence_warnings() -> None:
    """Silence those warnings of Lightning that a user cannot act on."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*exists and is not empty.*",
        # Frozen layers stay in eval mode on purpose.
        ".*in eval mode at the start of training.*",
        # Lightning's own use of torch.
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        ".*all_gather.* is deprecated",
        # All devices log the same values, and some methods do not use every head.
        ".*sync_dist=True.*",
        ".*find_unused_parameters=True.*",
    ):
        warnings.filterwarnings("ignore", message)
