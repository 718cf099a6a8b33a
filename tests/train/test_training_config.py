"""The settings of the optimizer and of the schedule, and the errors of those that do not fit."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from train.training_config import TrainingConfig


def test_default_is_adamw_with_one_cycle() -> None:
    config = TrainingConfig()
    assert (config.optimizer, config.momentum) == ("adamw", None)
    assert (config.schedule, config.step_epochs, config.step_factor) == ("one_cycle", None, None)


def test_momentum_and_step_factor_have_defaults_where_they_are_used() -> None:
    config = TrainingConfig(optimizer="sgd", schedule="step", step_epochs=70)
    assert (config.momentum, config.step_epochs, config.step_factor) == (0.9, 70, 0.1)


def test_momentum_of_zero_is_kept() -> None:
    assert TrainingConfig(optimizer="sgd", momentum=0).momentum == 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "sgd"}, {"schedule": "step", "step_epochs": 2}, {"schedule": "constant"}],
)
def test_written_settings_can_be_read_back(settings: dict[str, Any]) -> None:
    config = TrainingConfig.model_validate(settings)
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        (
            {"momentum": 0.9},
            "momentum",
            "momentum is a setting of SGD, and the optimizer is adamw; set training.optimizer=sgd",
        ),
        ({"optimizer": "adamw", "momentum": 0}, "momentum", "the optimizer is adamw"),
        ({"schedule": "step"}, "step_epochs", "set training.step_epochs, such as 70"),
        ({"schedule": "step", "step_factor": 0.5}, "step_epochs", "set training.step_epochs"),
        (
            {"step_epochs": 70},
            "step_epochs",
            "the schedule is one_cycle; set training.schedule=step, or leave step_epochs out",
        ),
        (
            {"schedule": "constant", "step_factor": 0.5},
            "step_factor",
            "the schedule is constant; set training.schedule=step, or leave step_factor out",
        ),
        ({"optimizer": "adam"}, "optimizer", "Input should be 'adamw' or 'sgd'"),
        ({"optimizer": "adam", "momentum": 0.9}, "optimizer", "Input should be 'adamw' or 'sgd'"),
        ({"schedule": "cosine"}, "schedule", "Input should be 'one_cycle', 'step' or 'constant'"),
        ({"optimizer": "sgd", "momentum": 1}, "momentum", "less than 1"),
        ({"schedule": "step", "step_epochs": 0}, "step_epochs", "greater than or equal to 1"),
        (
            {"schedule": "step", "step_epochs": 1, "step_factor": 1.0},
            "step_factor",
            "less than 1",
        ),
    ],
)
def test_error_of_settings_that_do_not_fit_names_the_setting(
    settings: dict[str, Any], place: str, message: str
) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        TrainingConfig.model_validate(settings)
    [error] = raised.value.errors()
    assert error["loc"] == (place,)
    assert message in error["msg"]
