from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dimml.nn.losses import mean_cross_entropy
from tests.train.methods.conftest import CLASSES, WARM_UP, widened
from train.calibration import EncodedRows
from train.methods import METHODS
from train.methods.base import UNLABELLED, balanced_weights
from train.recipe import load_recipe
from train.run import train_run

Make = Callable[..., Any]

UNWEIGHTED = {"dimml": {"duc"}, "qmf": {"rank"}}
"""Terms of a loss that are no cross-entropy with labels."""


def terms(make: Make, name: str, rows: EncodedRows, weights: torch.Tensor | None) -> dict[str, Any]:
    """Return the terms of a method's loss on a batch, with the same randomness at each call."""
    model, method = make(name)
    method.class_weights = weights
    batch = widened(model, rows)
    torch.manual_seed(1)
    if method.alternates:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return dict(method.alternate(model, batch, optimizer))
    return dict(method.objective(model, batch, WARM_UP))


@pytest.mark.parametrize("name", METHODS)
def test_class_weights_scale_every_cross_entropy_of_a_method(
    make: Make, batch: EncodedRows, name: str
) -> None:
    plain = terms(make, name, batch, None)
    doubled = terms(make, name, batch, torch.full((CLASSES,), 2.0))
    for term, value in plain.items():
        factor = 1 if term in UNWEIGHTED.get(name, ()) else 2
        assert doubled[term].item() == pytest.approx(factor * value.item(), rel=1e-5), term


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_class_count_by_its_weight(make: Make, batch: EncodedRows, name: str) -> None:
    only_first = torch.tensor([1.0, 0.0, 0.0, 0.0])
    relabelled = batch._replace(labels=batch.labels.where(batch.labels == 0, 3 - batch.labels % 3))
    weighted = terms(make, name, batch, only_first)
    for term in set(weighted) - UNWEIGHTED.get(name, set()):
        # The labels of classes with the weight 0 do not matter.
        other = terms(make, name, relabelled, only_first)[term]
        assert weighted[term].item() == pytest.approx(other.item(), rel=1e-5), term


def test_balanced_weights_make_the_labelled_rows_of_all_classes_count_equally() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2] + [UNLABELLED] * 5)
    weights = balanced_weights(labels, 3)
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert (weights * torch.tensor([6, 3, 1])).sum().item() == pytest.approx(10)


def test_weighted_mean_divides_by_the_number_of_rows() -> None:
    logits, labels = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1])
    rows = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (3 * rows[0] + rows[1]) / 2
    weights = torch.tensor([3.0, 1.0])
    assert mean_cross_entropy(logits, labels, weights).item() == pytest.approx(expected.item())


def test_run_with_balanced_classes_learns_other_weights(recipe_file: Path, tmp_path: Path) -> None:
    settings = ["training.epochs=1", "training.warm_up=1"]
    # One class has few training rows.
    lines = recipe_file.with_name("data.csv").read_text().splitlines()
    rare = [line for line in lines[1:] if ",train,blue," in line][8:]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(line for line in lines if line not in rare) + "\n")
    for picture in recipe_file.parent.glob("*.png"):
        (tmp_path / picture.name).symlink_to(picture)
    models = []
    for number, extra in enumerate([[], ["training.class_weights=balanced"]]):
        folder = tmp_path / f"run{number}"
        recipe = load_recipe(recipe_file, [f"data={table}", *settings, *extra])
        train_run(recipe, folder, resume=False)
        models.append(load_file(folder / "model.safetensors"))
    assert set(models[0]) == set(models[1])
    assert any(not models[0][name].equal(models[1][name]) for name in models[0])
