"""The learning rate by epoch, the momentum, and a resumed run with each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from dimml.errors import InterruptedRunError
from tests.train.compare.things import HEADER, recipe_of, row
from train.optimizer import build_optimizer, build_schedule
from train.run import train_run
from train.training_config import TrainingConfig

EPOCHS = 5
BATCHES = 3
"""Batches of an epoch."""


def rates_of(config: TrainingConfig) -> list[list[float]]:
    """Return the learning rates of two groups, of rates 0.5 and 0.01, in each step."""
    optimizer = two_groups(config)
    schedule = build_schedule(config, optimizer, config.epochs * BATCHES)
    rates = []
    for _ in range(config.epochs * BATCHES):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def two_groups(config: TrainingConfig) -> Any:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [w], "lr": rate} for w, rate in zip(weights, (0.5, 0.01), strict=True)]
    return build_optimizer(config, groups, fused=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_step_multiplies_every_rate_after_each_period_of_epochs(optimizer: Any) -> None:
    config = TrainingConfig(
        epochs=EPOCHS, optimizer=optimizer, schedule="step", step_epochs=2, step_factor=0.5
    )
    factors = [0.5 ** (step // (2 * BATCHES)) for step in range(EPOCHS * BATCHES)]
    assert factors[-1] == 0.25
    first, second = zip(*rates_of(config), strict=True)
    assert list(first) == pytest.approx([0.5 * factor for factor in factors])
    assert list(second) == pytest.approx([0.01 * factor for factor in factors])


def test_constant_keeps_every_rate() -> None:
    config = TrainingConfig(epochs=EPOCHS, schedule="constant")
    assert rates_of(config) == [[0.5, 0.01]] * (EPOCHS * BATCHES)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_cycle_has_every_rate_at_its_peak_once(optimizer: Any) -> None:
    rates = rates_of(TrainingConfig(epochs=EPOCHS, optimizer=optimizer))
    assert max(first for first, _ in rates) == pytest.approx(0.5, rel=0.05)
    assert max(second for _, second in rates) == pytest.approx(0.01, rel=0.05)
    assert rates[0][0] == pytest.approx(0.02)
    assert rates[-1][0] < 1e-4


def test_default_optimizer_and_schedule_are_adamw_with_one_cycle_of_rate_and_beta() -> None:
    config = TrainingConfig(epochs=EPOCHS)
    weight, other = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    built = build_optimizer(config, [{"params": [weight], "lr": 0.1}], fused=True)
    expected = torch.optim.AdamW([{"params": [other], "lr": 0.1}], weight_decay=1e-2, fused=True)
    steps = EPOCHS * BATCHES
    schedules = [build_schedule(config, built, steps), OneCycleLR(expected, [0.1], steps)]
    for step in range(steps):
        weight.grad, other.grad = (torch.tensor([1.0, -step, 0.5]) for _ in range(2))
        for optimizer, schedule in zip((built, expected), schedules, strict=True):
            optimizer.step()
            schedule.step()
        assert torch.equal(weight, other)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("schedule", ["one_cycle", "step", "constant"])
def test_no_schedule_changes_the_momentum_of_sgd(schedule: Any, momentum: float) -> None:
    epochs = 1 if schedule == "step" else None
    config = TrainingConfig(
        optimizer="sgd", momentum=momentum, schedule=schedule, step_epochs=epochs
    )
    optimizer = two_groups(config)
    steps = build_schedule(config, optimizer, config.epochs * BATCHES)
    for _ in range(2 * BATCHES):
        assert {group["momentum"] for group in optimizer.param_groups} == {momentum}
        optimizer.step()
        steps.step()


def test_sgd_adds_the_weight_decay_to_the_gradient() -> None:
    config = TrainingConfig(optimizer="sgd", momentum=0.5, weight_decay=0.1)
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = build_optimizer(config, [{"params": [weight], "lr": 0.1}], fused=True)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2 - 0.1 * 1.2)
    optimizer.step()
    assert weight.item() == pytest.approx(1.88 - 0.1 * (0.5 * 1.2 + 1 + 0.188))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("things") / "data.csv"
    path.write_text(HEADER + "".join(map(row, range(64))))
    return path


@pytest.fixture
def steps() -> Iterator[list[tuple[float, ...]]]:
    """Collect the learning rates of each optimizer step that moves an encoder."""
    rates: list[tuple[float, ...]] = []

    def note(optimizer: Any, *_: Any) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        if sum(w.grad is not None for w in weights) > 2:
            rates.append(tuple(group["lr"] for group in optimizer.param_groups))

    hook = register_optimizer_step_pre_hook(note)
    yield rates
    hook.remove()


@pytest.mark.parametrize("method", ["dimml", "mla"])
def test_resumed_run_with_sgd_and_steps_equals_an_uninterrupted_run(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[float, ...]],
    method: str,
) -> None:
    training = {
        "epochs": 4,
        "batch_size": 16,
        "warm_up": 1,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "schedule": "step",
        "step_epochs": 2,
    }
    recipe = recipe_of(data, method=method, training=training)
    train_run(recipe, tmp_path / "whole", resume=False)
    batches = len(steps) // 4
    by_epoch = [steps[epoch * batches][0] for epoch in range(4)]
    assert by_epoch == pytest.approx([0.1, 0.1, 0.01, 0.01])
    uninterrupted = list(steps)
    steps.clear()

    def interrupt(_: Any, trainer: Trainer, *__: Any) -> None:
        if trainer.current_epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("train.callbacks.History.on_train_epoch_start", interrupt)
        with pytest.raises(InterruptedRunError):
            train_run(recipe, tmp_path / "run", resume=False)
    train_run(recipe, tmp_path / "run", resume=True)
    assert steps == uninterrupted
    for name in ("metrics.csv", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
