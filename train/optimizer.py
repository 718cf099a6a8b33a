"""The optimizer of a training run, and the schedule of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR, StepLR

from train.training_config import TrainingConfig


def build_optimizer(
    config: TrainingConfig, groups: Sequence[dict[str, Any]], fused: bool
) -> Optimizer:
    """Return the optimizer that a recipe names.

    Args:
        config: The recipe's `training`.
        groups: Parameters with their learning rates, see `train.pretrained.tuning`.
        fused: Whether one kernel steps all parameters.
    """
    decay = config.weight_decay
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, weight_decay=decay, fused=fused)
        case "sgd":
            momentum = config.momentum or 0.0
            return torch.optim.SGD(groups, momentum=momentum, weight_decay=decay, fused=fused)


def build_schedule(config: TrainingConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return the schedule that a recipe names, which is stepped after each batch.

    Args:
        config: The recipe's `training`.
        optimizer: The optimizer; each of its groups keeps its own learning rate.
        steps: The number of batches of all epochs.
    """
    match config.schedule:
        case "one_cycle":
            rates = [group["lr"] for group in optimizer.param_groups]
            # A cycle also moves the first beta of AdamW, and would replace the momentum of SGD.
            cycle_momentum = config.optimizer == "adamw"
            return OneCycleLR(optimizer, rates, steps, cycle_momentum=cycle_momentum)
        case "step":
            # The recipe's checks fill in both settings for this schedule.
            epochs, factor = int(config.step_epochs or 0), float(config.step_factor or 0)
            return StepLR(optimizer, epochs * (steps // config.epochs), factor)
        case "constant":
            return ConstantLR(optimizer, factor=1.0)
