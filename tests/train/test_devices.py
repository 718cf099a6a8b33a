"""Training on several devices: two processes equal one process on the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimml.errors import RecipeError, UsageError
from train.data.loader import EpochSampler
from train.recipe import load_recipe
from train.run import load_run, train_run

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the losses and weights of two gloo processes and of one, on the same batches."""
    out = tmp_path_factory.mktemp("devices") / "results.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, SCRIPT, str(out)], check=True, env=environment, timeout=120)
    results: dict[str, Any] = torch.load(out, weights_only=True)
    return results


def test_losses_on_two_devices_equal_those_of_the_joined_batch(joined: dict[str, Any]) -> None:
    assert set(joined["one"]["losses"]) >= {"train_isolated", "train_shared", "train_duc"}
    for name, expected in joined["one"]["losses"].items():
        assert joined["two"]["losses"][name] == pytest.approx(expected, rel=1e-5), name


def test_weights_after_training_on_two_devices_equal_those_of_one(joined: dict[str, Any]) -> None:
    for name, expected in joined["one"]["weights"].items():
        torch.testing.assert_close(
            joined["two"]["weights"][name], expected, rtol=1e-3, atol=1e-5, msg=name
        )
    moved = joined["one"]["weights"]["model.encoders.0.head.late.weight"] - joined["start"]
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 9, 10, 11, 24])
def test_devices_get_equal_parts_of_every_batch(length: int) -> None:
    size, devices = 10, 2
    shares = [list(EpochSampler(length, 3, True, (n, devices, size))) for n in range(devices)]
    samplers = [EpochSampler(length, 3, True, (n, devices, size)) for n in range(devices)]
    whole = list(EpochSampler(length, 3, True))
    assert [len(share) for share in shares] == [len(sampler) for sampler in samplers]
    assert len(shares[0]) == len(shares[1])
    for start in range(0, length, size):
        each = [share[start // devices : (start + size) // devices] for share in shares]
        batch = whole[start : start + size]
        assert set(each[0]) | set(each[1]) <= set(batch)
        assert len(batch) - len(set(each[0]) | set(each[1])) == len(batch) % devices


@pytest.mark.slow("starts a training of two processes; the losses of two devices are tested above")
def test_train_command_uses_two_processes(recipe_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dimml", "train", str(recipe_file), "--out"]
    settings = ["training.epochs=1", "training.batch_size=8", "training.devices=2"]
    arguments = [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(tmp_path / "run"), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run")
    assert load_run(tmp_path / "run").recipe.training.devices == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["best"]["epoch"] == 0


def test_training_in_half_precision_keeps_32_bit_weights(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1", "training.precision=bf16-mixed"]
    train_run(load_recipe(recipe_file, settings), tmp_path / "run", resume=False)
    weights = load_file(tmp_path / "run" / "model.safetensors")
    floats = [value for value in weights.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    assert all(value.isfinite().all() for value in floats)


class TestRefusals:
    def test_batch_that_devices_cannot_share_is_rejected(self, recipe_file: Path) -> None:
        with pytest.raises(RecipeError, match=r"batch of 9 .* 2 equal parts.*batch_size"):
            load_recipe(recipe_file, ["training.batch_size=9", "training.devices=2"])

    def test_alternating_method_on_two_devices_is_rejected(
        self, recipe_file: Path, tmp_path: Path
    ) -> None:
        settings = ["method=mla", "training.batch_size=8", "training.devices=2"]
        with pytest.raises(UsageError, match=r"training\.devices=1"):
            train_run(load_recipe(recipe_file, settings), tmp_path / "run", resume=False)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_precision_that_needs_a_gpu_is_rejected(
        self, recipe_file: Path, tmp_path: Path
    ) -> None:
        recipe = load_recipe(recipe_file, ["training.precision=16-mixed"])
        with pytest.raises(UsageError, match=r"needs a GPU.*bf16-mixed"):
            train_run(recipe, tmp_path / "run", resume=False)
