"""The `training` part of a recipe: epochs, batches, optimizer, schedule and devices."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from train.methods.settings import DetachedTraining

DEFAULT_MOMENTUM = 0.9
DEFAULT_STEP_FACTOR = 0.1


class TrainingConfig(DetachedTraining):
    """The settings of the optimisation, and those of the detached method.

    Attributes:
        epochs: Passes over the training split.
        batch_size: Samples per step.
        optimizer: `adamw` or `sgd`.
        momentum: Momentum of SGD, 0.9 unless given; None with AdamW.
        learning_rate: The learning rate at the peak of `one_cycle`, or at the start of the other
            schedules.
        weight_decay: The weight decay of the optimizer. AdamW decays weights apart from the
            gradient; SGD adds the decay to the gradient.
        schedule: How the learning rate changes, in each step of the optimizer: `one_cycle` rises
            and falls once over all epochs, `step` multiplies the rate by `step_factor` after every
            `step_epochs` epochs, `constant` keeps it.
        step_epochs: The number of epochs between two changes of `step`; None with other schedules.
        step_factor: The factor of `step`, 0.1 unless given; None with other schedules.
        gradient_clip: Largest norm of the gradient; None clips only where a pretrained model is
            tuned, at 1.
        workers: Processes that augment and collate batches beside the training process.
        devices: GPUs, or processes without a GPU, that share each batch. The losses see the whole
            batch, so only batch normalisation differs from training on one device.
        precision: Precision of the encoders, as Lightning names it; the losses use 32 bits.
        class_weights: `balanced` weighs the rows of a class by n / (K * rows of the class) in every
            cross-entropy with labels, where n is the number of labelled training rows and K that of
            the classes. None weighs all rows equally. Calibration is never weighted.
        patience: The number of epochs without a better validation accuracy after which training
            stops; None trains all epochs. The schedule of the learning rate still spans all epochs.
        logger: Where the metrics go beside `metrics.csv`: `tensorboard`, `mlflow`, `wandb` or
            `none`, see `train.loggers`.
    """

    epochs: Annotated[int, pydantic.Field(ge=1)] = 20
    batch_size: Annotated[int, pydantic.Field(ge=2)] = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: Annotated[float | None, pydantic.Field(ge=0, lt=1, validate_default=True)] = None
    learning_rate: pydantic.PositiveFloat = 2e-3
    weight_decay: pydantic.NonNegativeFloat = 1e-2
    schedule: Literal["one_cycle", "step", "constant"] = "one_cycle"
    step_epochs: Annotated[int | None, pydantic.Field(ge=1, validate_default=True)] = None
    step_factor: Annotated[float | None, pydantic.Field(gt=0, lt=1, validate_default=True)] = None
    gradient_clip: pydantic.PositiveFloat | None = None
    workers: pydantic.NonNegativeInt = 0
    devices: Annotated[int, pydantic.Field(ge=1)] = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    class_weights: Literal["balanced"] | None = None
    patience: Annotated[int, pydantic.Field(ge=1)] | None = None
    logger: Literal["tensorboard", "mlflow", "wandb", "none"] = "tensorboard"

    @pydantic.field_validator("momentum")
    @classmethod
    def _check_momentum(cls, value: float | None, info: pydantic.ValidationInfo) -> float | None:
        # An invalid optimizer has an error of its own, and is missing here.
        match info.data.get("optimizer"), value:
            case "adamw", float():
                raise ValueError(
                    "momentum is a setting of SGD, and the optimizer is adamw; set "
                    "training.optimizer=sgd, or leave momentum out"
                )
            case "sgd", None:
                return DEFAULT_MOMENTUM
        return value

    @pydantic.field_validator("step_epochs", "step_factor")
    @classmethod
    def _check_step(cls, value: float | None, info: pydantic.ValidationInfo) -> float | None:
        schedule, name = info.data.get("schedule"), info.field_name
        if schedule == "step" and value is None:
            if name == "step_factor":
                return DEFAULT_STEP_FACTOR
            raise ValueError(
                "schedule: step needs the number of epochs between two changes of the learning "
                "rate; set training.step_epochs, such as 70"
            )
        if schedule in ("one_cycle", "constant") and value is not None:
            raise ValueError(
                f"{name} is a setting of the schedule step, and the schedule is {schedule}; set "
                f"training.schedule=step, or leave {name} out"
            )
        return value

    @pydantic.field_validator("devices")
    @classmethod
    def _check_share_of_batch(cls, value: int, info: pydantic.ValidationInfo) -> int:
        size = info.data.get("batch_size", value)
        if size % value or size // value < 2:
            raise ValueError(
                f"a batch of {size} cannot be split into {value} equal parts of two or more "
                "samples; change batch_size"
            )
        return value
