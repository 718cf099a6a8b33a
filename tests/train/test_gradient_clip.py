"""Gradients are clipped where a pretrained model is tuned, or where the recipe says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tests.conftest import PretrainedFolder
from tests.train.compare.things import HEADER, recipe_of, row
from train.data.prepare import prepare
from train.encoders import build_model, training_encoders
from train.module import TrainingModule
from train.recipe import Recipe
from train.run import train_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("things") / "data.csv"
    path.write_text(HEADER + "".join(map(row, range(64))))
    return path


@pytest.fixture
def norms() -> Iterator[list[float]]:
    """Collect the norms of the gradients of all steps that move an encoder."""
    found: list[float] = []

    def measure(optimizer: Any, *_: Any) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        gradients = [w.grad.float() for w in weights if w.grad is not None]
        if len(gradients) > 2:
            found.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))

    hook = register_optimizer_step_post_hook(measure)
    yield found
    hook.remove()


def recipe_for(data: Path, folder: Path, tune: str | None, method: str, **training: Any) -> Recipe:
    note: Any = {"kind": "text", "encoder": "small"}
    if tune:
        note["encoder"] = {"pretrained": str(folder), "tune": tune, "adapter": "linear"}
    settings = {"epochs": 1, "warm_up": 0, "batch_size": 16, **training}
    modalities = {"title": "text", "note": note}
    return recipe_of(data, method=method, modalities=modalities, training=settings)


@pytest.mark.parametrize(
    ("tune", "given", "expected"),
    [
        (None, None, None),
        ("frozen", None, None),
        ("frozen", 0.5, 0.5),
        (None, 0.5, 0.5),
        ("last_2", None, 1.0),
        ("full", None, 1.0),
        ("lora", None, 1.0),
        ("lora", 0.5, 0.5),
    ],
)
def test_limit_is_one_for_tuned_models_unless_the_recipe_sets_it(
    data: Path,
    pretrained_folder: PretrainedFolder,
    tmp_path: Path,
    tune: str | None,
    given: float | None,
    expected: float | None,
) -> None:
    folder = pretrained_folder("text", "bert")
    recipe = recipe_for(data, folder, tune, "dimml", gradient_clip=given)
    model, method = build_model(recipe, training_encoders(recipe, prepare(recipe, tmp_path)), 2)
    assert TrainingModule(model, recipe, method).gradient_clip == expected


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", ["dimml", "mla", "ogm_ge"])
def test_no_step_of_an_encoder_exceeds_the_limit(
    data: Path,
    pretrained_folder: PretrainedFolder,
    tmp_path: Path,
    norms: list[float],
    method: str,
    precision: str,
) -> None:
    folder = pretrained_folder("text", "bert")
    settings: Any = {"gradient_clip": 1e-3, "precision": precision}
    recipe = recipe_for(data, folder, "full", method, **settings)
    train_run(recipe, tmp_path / "run", resume=False)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)
    assert len(norms) == 2


@pytest.mark.parametrize("method", ["dimml", "mla"])
def test_gradients_of_presets_are_not_clipped(
    data: Path, tmp_path: Path, norms: list[float], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("clipped")

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", refuse)
    recipe = recipe_for(data, tmp_path, None, method)
    train_run(recipe, tmp_path / "run", resume=False)
    assert len(norms) == 2
