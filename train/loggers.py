"""Loggers of Lightning that a recipe can choose; each is offline unless the user says otherwise."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from dimml.errors import UsageError
from train.recipe import Recipe

PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
"""The modules that loggers import and no extra of dimml installs, and the package of each."""
RUN_ID = "logger-run"
"""The file with the id of the logged run, which a resumed training continues."""


def check_logger(name: str) -> None:
    """Reject a logger whose package is not installed.

    Raises:
        UsageError: If the package is not installed.
    """
    if name in PACKAGES and importlib.util.find_spec(name) is None:
        raise UsageError(
            f"training.logger={name} needs {name}, which is not installed: run "
            f"`pip install {PACKAGES[name]}`, or set training.logger to tensorboard or none"
        )


@contextmanager
def open_logger(recipe: Recipe, folder: Path, resume: bool) -> Iterator[Logger | None]:
    """Yield the logger of a run, and close it after the block.

    Nothing leaves the machine by itself: MLflow writes into `mlflow` in the folder unless
    MLFLOW_TRACKING_URI names a server, and wandb into `wandb` unless WANDB_MODE is set.

    Args:
        recipe: The recipe of the run.
        folder: The folder of the run.
        resume: Whether to continue the run that was logged before.
    """
    check_logger(recipe.training.logger)
    file = folder / RUN_ID
    run = file.read_text() if resume and file.exists() else None
    match recipe.training.logger:
        case "tensorboard":
            yield TensorBoardLogger(folder, name="", version="tensorboard")
        case "mlflow":
            yield _mlflow(recipe, folder, run)
        case "wandb":
            with _wandb(recipe, folder, run) as logger:
                yield logger
        case _:
            yield None


def _mlflow(recipe: Recipe, folder: Path, run: str | None) -> Logger:
    server = os.environ.get("MLFLOW_TRACKING_URI")
    # MLflow prefers a database to files, for which mlflow-skinny lacks the packages.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(
        recipe.name,
        run_name=None if run else str(folder),
        tracking_uri=server or (folder / "mlflow").absolute().as_uri(),
        run_id=run,
    )
    if not run:
        logger.log_hyperparams(recipe.model_dump(mode="json"))
    if logger.run_id:
        (folder / RUN_ID).write_text(logger.run_id)
    return logger


@contextmanager
def _wandb(recipe: Recipe, folder: Path, run: str | None) -> Iterator[Logger]:
    logger = WandbLogger(
        name=str(folder),
        project=recipe.name,
        save_dir=folder,
        id=run,
        mode=os.environ.get("WANDB_MODE") or "offline",
    )
    logger.log_hyperparams(recipe.model_dump(mode="json"))
    if isinstance(logger.version, str):
        (folder / RUN_ID).write_text(logger.version)
    try:
        yield logger
    finally:
        # wandb would add the next run of this process, such as that of a comparison, to this run.
        logger.experiment.finish()
