from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dimml import Predictor
from dimml.errors import ParityError, RecipeError
from export.bundle import export_run
from train.config import load_recipe
from train.evaluate import evaluate_bundle
from train.run import train_run

RECIPE = """
name: sightings
data: {data}
feature_dim: 16
modalities:
  front: {{kind: image, preprocessing: {{size: [32, 32]}}}}
  rear: {{kind: image, preprocessing: {{size: [32, 32]}}}}
  note: text
training: {{epochs: 3, warm_up: 1, batch_size: 16}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red or blue things seen from two sides, with a note; some cells empty."""
    folder = tmp_path_factory.mktemp("sightings")
    random = np.random.default_rng(0)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "front", "rear", "note"])
        for number in range(96):
            split = ("train", "train", "validation", "test")[number % 4]
            label = ("red", "blue")[number // 4 % 2]
            for side in ("front", "rear"):
                pixels = random.integers(0, 100, (32, 32, 3), np.uint8)
                pixels[..., 0 if label == "red" else 2] += 150
                PIL.Image.fromarray(pixels).save(folder / f"{side}{number}.png")
            cells = [f"front{number}.png", f"rear{number}.png", f"it was {label}"]
            if number % 5 == 0:
                cells[number % 3] = ""
            writer.writerow([number, split, label, *cells])
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(data=folder / "data.csv"))
    return path


def test_free_names_train_export_and_evaluate(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    train_run(recipe, tmp_path / "run", resume=False)
    export_run(tmp_path / "run", tmp_path / "bundle")

    report = evaluate_bundle(tmp_path / "bundle", recipe.data, "test")
    prediction = Predictor.load(tmp_path / "bundle", "cpu").predict({"note": "it was red"})

    assert len(report["subsets"]) == 7
    assert list(prediction.modalities) == ["front", "rear", "note"]
    assert prediction.modalities["note"].weight == pytest.approx(1.0)
    assert set(prediction.probabilities) == {"red", "blue"}


def test_parity_refuses_a_model_that_differs(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(load_recipe(recipe_file, ["training.epochs=1"]), tmp_path / "run", resume=False)
    monkeypatch.setattr("export.parity.TOLERANCE", -1.0)
    with pytest.raises(ParityError, match="nothing was written"):
        export_run(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_unknown_key_names_its_nearest_match(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean learning_rate"):
        load_recipe(recipe_file, ["training.lerning_rate=1"])
