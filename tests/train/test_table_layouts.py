"""Tables as teams have them: other column names, other separators, several files, no splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dimml.bundle import Bundle
from dimml.errors import RecipeError
from export.bundle import export_run
from serving.offline.job import score_tables
from train.evaluate import evaluate_bundle
from train.init import write_recipe
from train.recipe import load_recipe
from train.run import load_run, train_run

RECIPE = """
name: shop
data:
  table: {folder}/part*.csv
  id: sku
  label: Category
  split: {{validation: 0.2, test: 0.2, by: Seller}}
feature_dim: 16
modalities:
  photo: {{kind: image, column: Product Photo, preprocessing: {{size: [32, 32]}}}}
  title: {{kind: text, column: Product Title}}
training: {{epochs: 2, warm_up: 1, batch_size: 16}}
"""


@pytest.fixture(scope="module")
def shop(recipe_file: Path) -> Path:
    """Write the sightings as two semicolon CSVs without splits, and a recipe that names columns."""
    folder = recipe_file.parent
    with (folder / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for part in (0, 1):
        lines = ["sku;Seller;Category;Product Photo;Product Title;"]
        for n, row in enumerate(rows):
            label = row["label"] + " " * (n % 3)
            cells = [f"s{row['id']}", f"seller {n % 12}", label, row["front"], row["note"], ""]
            lines += [";".join(cells)] if n % 2 == part else []
        (folder / f"part{part}.csv").write_text("\n".join(lines) + "\n")
    path = folder / "shop.yaml"
    path.write_text(RECIPE.format(folder=folder))
    return path


def test_named_columns_work_from_training_to_scoring(shop: Path, tmp_path: Path) -> None:
    train_run(load_recipe(shop), tmp_path / "run", resume=False)
    assert load_run(tmp_path / "run").labels == ("blue", "red")
    export_run(tmp_path / "run", tmp_path / "bundle")
    layout = Bundle.load(tmp_path / "bundle").manifest.table
    assert layout.columns == {
        "photo": "Product Photo",
        "title": "Product Title",
        "id": "sku",
        "label": "Category",
    }
    tables = shop.parent / "part*.csv"
    tested = evaluate_bundle(tmp_path / "bundle", tables, "test")
    everything = evaluate_bundle(tmp_path / "bundle", tables, "all")
    assert 10 <= tested["samples"] <= 30
    assert everything["samples"] == 96
    report = score_tables(tmp_path / "bundle", str(tables), tmp_path / "scores.jsonl")
    assert (report["rows"], report["errors"]) == (96, {})
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert {score["id"] for score in scores} == {f"s{number}" for number in range(96)}
    assert sum(score["title_present"] for score in scores) > 80


def test_key_given_twice_in_a_recipe_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ndata: t.csv\nmodalities:\n  note: text\n  note: text\n")
    with pytest.raises(RecipeError, match="the key 'note' is given twice; keep one of them"):
        load_recipe(path)


def test_split_that_leaves_no_training_rows_is_rejected(shop: Path) -> None:
    with pytest.raises(RecipeError, match="leave no rows to train on"):
        load_recipe(shop, ["data.split.validation=0.6", "data.split.test=0.4"])


def test_unknown_key_of_the_data_is_rejected_with_the_nearest(shop: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.labels: unknown key; did you mean label\?"):
        load_recipe(shop, ["data.labels=kind"])


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("{validation: 15}", "data.split.validation: Input should be less than 1"),
        ("{validation: 0.6, test: 0.6}", "data.split: validation and test leave no rows"),
        ("{tset: 0.2}", "data.split.tset: unknown key; did you mean test?"),
    ],
)
def test_wrong_split_rule_is_rejected_at_its_place(shop: Path, split: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(shop, [f"data.split={split}"])
    assert problem in caught.value.message
    assert "data.split.str" not in caught.value.message


def test_error_of_a_recipe_names_its_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: a\ndata: t.csv\nname: b\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml\", line 3, column 1"):
        load_recipe(path)
    path.write_bytes("name: caf\u00e9\n".encode("latin-1"))
    with pytest.raises(RecipeError, match="byte 9 is not UTF-8 text; save the recipe in UTF-8"):
        load_recipe(path)


def test_split_column_with_other_values_is_kept_with_a_warning(tmp_path: Path) -> None:
    names = ["Train", "Train", "dev", "holdout", "TEST"]
    rows = [f"{names[n % 5]},{('red', 'blue')[n % 2]},it was number {n} of all" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["split,label,note", *rows]))
    written = write_recipe(tmp_path / "t.csv", tmp_path / "recipe.yaml", None, overwrite=False)
    assert load_recipe(tmp_path / "recipe.yaml").data.split == "split"
    assert any("rows whose `split` is holdout are not used" in w for w in written.warnings())
