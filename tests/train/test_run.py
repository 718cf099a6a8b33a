from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dimml import Predictor
from dimml.errors import RecipeError, UsageError
from export.bundle import export_run
from train.evaluate import evaluate_bundle
from train.recipe import load_recipe
from train.run import load_run, train_run


def test_free_modality_names_work_from_training_to_serving(
    recipe_file: Path, tmp_path: Path, open_client: Any
) -> None:
    recipe = load_recipe(recipe_file)
    train_run(recipe, tmp_path / "run", resume=False)
    export_run(tmp_path / "run", tmp_path / "bundle")

    report = evaluate_bundle(tmp_path / "bundle", recipe.data.table, "test")
    prediction = Predictor.load(tmp_path / "bundle", "cpu").predict({"note": "it was red"})

    assert len(report["subsets"]) == 7
    assert list(prediction.modalities) == ["front", "rear", "note"]
    assert prediction.modalities["note"].weight == pytest.approx(1.0)
    assert set(prediction.probabilities) == {"red", "blue"}

    with open_client(tmp_path / "bundle") as client:
        front = (recipe.data.table.parent / "front1.png").read_bytes()
        answer = client.post("/predict", files={"front": front, "note": (None, "it was red")})
        modalities = answer.json()["modalities"]
        assert {name: answer["present"] for name, answer in modalities.items()} == {
            "front": True,
            "rear": False,
            "note": True,
        }
        assert client.post("/predict", data={"text": "it was red"}).status_code == 422


def test_run_finds_its_table_from_any_folder(
    calls_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    text = "split,label,note\n" + "".join(
        f"{split},{label},it is {label}\n"
        for split in ("train", "validation")
        for label in ("high", "low", "high", "low")
    )
    (tmp_path / "data.csv").write_text(text)
    monkeypatch.chdir(tmp_path)
    changes = ["data=data.csv", "modalities={note: text}", "training.epochs=1"]
    train_run(load_recipe(calls_recipe, changes), tmp_path / "run", resume=False)

    assert load_run(tmp_path / "run").recipe.data.table == Path("data.csv")
    monkeypatch.chdir(tmp_path / "away")
    run = load_run(tmp_path / "run")
    assert run.recipe.data.table == tmp_path / "data.csv"
    assert run.document["data"]["path"] == str(tmp_path / "data.csv")
    (tmp_path / "data.csv").unlink()
    with pytest.raises(UsageError) as raised:
        load_run(tmp_path / "run")
    assert f"trained on {tmp_path / 'data.csv'}, which no longer exists" in raised.value.message


def test_error_of_an_unknown_key_names_the_nearest_key(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean learning_rate"):
        load_recipe(recipe_file, ["training.lerning_rate=1"])


def test_recordings_of_any_length_train_and_predict(calls_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(calls_recipe)
    train_run(recipe, tmp_path / "run", resume=False)
    export_run(tmp_path / "run", tmp_path / "bundle")
    predictor = Predictor.load(tmp_path / "bundle", "cpu")

    samples = [
        {"call": np.sin(np.arange(length) / 3).astype(np.float32)} for length in (3000, 5000, 7000)
    ]
    alone = [predictor.predict(sample) for sample in samples]
    together = predictor.predict_many(samples)

    for one, other in zip(alone, together, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_exported_ensemble_weights_modalities_equally(recipe_file: Path, tmp_path: Path) -> None:
    modalities = "modalities={front: {kind: image, preprocessing: {size: [32, 32]}}, note: text}"
    recipe = load_recipe(recipe_file, ["training.epochs=1", "method=ume", modalities])
    train_run(recipe, tmp_path / "run", resume=False)
    export_run(tmp_path / "run", tmp_path / "bundle")

    predictor = Predictor.load(tmp_path / "bundle", "cpu")
    front = recipe.data.table.parent / "front1.png"
    both = predictor.predict({"front": front, "note": "it was red"})
    weights = {name: answer.weight for name, answer in both.modalities.items()}
    assert weights == pytest.approx({"front": 0.5, "note": 0.5}, abs=1e-5)
    alone = predictor.predict({"note": "it was red"})
    weights = {name: answer.weight for name, answer in alone.modalities.items()}
    assert weights == pytest.approx({"front": 0.0, "note": 1.0}, abs=1e-5)


@pytest.mark.parametrize("method", ["dimml", "ume"])
def test_unlabelled_rows_change_only_the_detached_method(
    method: str, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (recipe_file.parent / "data.csv").read_text().splitlines()
    weights = []
    for front in ("front1.png", "front9.png"):
        # Every other row of the train split loses its label and gets this photo.
        rows = [line.split(",") for line in lines[1:]]
        for number, row in enumerate(rows):
            if row[1] == "train" and number % 16 > 7:
                row[2:4] = ["", front]
        table = recipe_file.parent / f"{method}-{front}.csv"
        table.write_text("\n".join([lines[0], *map(",".join, rows)]))
        settings = [f"data={table}", f"method={method}", "training.epochs=2"]
        run = tmp_path / front / "run"
        train_run(load_recipe(recipe_file, settings), run, resume=False)
        assert "24 of 48 rows have no label" in capsys.readouterr().err
        weights.append(load_file(run / "model.safetensors"))
    same = all(value.equal(weights[1][name]) for name, value in weights[0].items())
    assert same is (method == "ume")


def test_train_split_with_too_few_readable_rows_is_rejected(
    recipe_file: Path, tmp_path: Path
) -> None:
    head, *lines = (recipe_file.parent / "data.csv").read_text().splitlines()
    broken = "id,split,label,front,rear,note\n" + "\n".join(
        [
            *(f"{n},train,blue,none.png,none.png," for n in range(3)),
            *(line for line in lines if ",train,red," in line or ",validation," in line),
        ]
    )
    table = recipe_file.parent / "broken.csv"
    table.write_text(broken)
    with pytest.raises(UsageError, match=r"no readable row of the train split has the label blue"):
        train_run(load_recipe(recipe_file, [f"data={table}"]), tmp_path / "run", resume=False)

    rows = [line.split(",") for line in lines]
    for row in rows:
        row[3] = "none.png" if row[1] == "train" else row[3]
    table.write_text("\n".join([head, *map(",".join, rows)]))
    with pytest.raises(UsageError, match=r"front: fewer than two labelled rows"):
        train_run(load_recipe(recipe_file, [f"data={table}"]), tmp_path / "run", resume=False)


def test_method_without_export_trains_and_has_no_bundle(recipe_file: Path, tmp_path: Path) -> None:
    changes = ["training.epochs=1", "method=joint", "options={fill: mean}"]
    train_run(load_recipe(recipe_file, changes), tmp_path / "run", resume=False)
    run = load_run(tmp_path / "run")
    mean = run.method.get_buffer("mean")
    assert mean.any()
    # Dropout in the head of a loaded method would change its answers.
    assert not run.method.training
    with pytest.raises(UsageError, match=r"method joint .*no bundle; train with `method: dimml`"):
        export_run(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_weights_of_another_version_are_rejected(recipe_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_run(load_recipe(recipe_file, ["training.epochs=1"]), run, resume=False)
    weights = load_file(run / "model.safetensors")
    weights["fusion.old_name"] = weights.pop("fusion.classifier.weight")
    save_file(weights, run / "model.safetensors")
    with pytest.raises(UsageError, match="do not fit this version of dimml; train it again"):
        load_run(run)


def test_option_of_another_method_is_rejected(recipe_file: Path) -> None:
    with pytest.raises(RecipeError, match=r"options\.rat: unknown key; did you mean rate"):
        load_recipe(recipe_file, ["method=joint_dropout", "options={rat: 0.5}"])
    with pytest.raises(RecipeError, match=r"options\.shared: unknown key"):
        load_recipe(recipe_file, ["method=ume", "options={shared: true}"])
