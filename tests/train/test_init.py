"""`dimml init`: from a table to a recipe."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from dimml.errors import UsageError
from tests.conftest import Dimml
from train.init import write_recipe
from train.recipe import Recipe, load_recipe


def picture(number: int) -> bytes:
    """Return a PNG, red for even numbers and blue for odd ones."""
    pixels = np.random.default_rng(number).integers(0, 100, (24, 24, 3), np.uint8)
    pixels[..., 2 * (number % 2)] += 150
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_csv(path: Path, header: str, rows: Iterable[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def recipe_of(table: Path, label: str | None = None) -> Recipe:
    """Write the recipe of a table beside it, and load it."""
    path = table.with_suffix(".yaml")
    write_recipe(table, path, label, overwrite=True)
    return load_recipe(path)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Write a folder of pictures, and a semicolon CSV of products that names them."""
    (tmp_path / "photos").mkdir()
    rows = []
    for number in range(64):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
        label = ("shoes", "bags")[number % 2]
        rows.append(f"{label} of style {number // 2};photos/{number}.png;{label}")
    return write_csv(tmp_path / "shop.csv", "Product Title;Photo;Category", rows)


def test_five_commands_lead_from_a_table_to_a_prediction(
    shop: Path, monkeypatch: pytest.MonkeyPatch, dimml: Dimml
) -> None:
    monkeypatch.chdir(shop.parent)
    code, out, err = dimml("init", "shop.csv")
    assert (code, out) == (0, "recipe.yaml\n")
    assert err.endswith("next: dimml check recipe.yaml\n")
    assert "label: `Category` (2 classes: shoes 32, bags 32)" in err
    code, out, _ = dimml("check", "recipe.yaml")
    assert code == 0
    assert "no problems" in out
    settings = ["training.epochs=2", "training.warm_up=1", "feature_dim=16"]
    assert dimml("train", "recipe.yaml", *(w for s in settings for w in ("--set", s)))[0] == 0
    assert dimml("export", "runs/shop/run", "runs/shop/bundle")[0] == 0
    sample = ["--photo", "photos/0.png", "--product_title", "shoes of style 0"]
    code, out, _ = dimml("predict", "runs/shop/bundle", *sample, "--json", "--providers", "cpu")
    assert code == 0
    assert set(json.loads(out)["probabilities"]) == {"shoes", "bags"}


def test_recipe_says_what_it_decided(shop: Path) -> None:
    recipe = recipe_of(shop)
    assert (recipe.name, recipe.data.label, recipe.data.id) == ("shop", "Category", "id")
    assert recipe.data.rule is not None
    assert (recipe.data.rule.validation, recipe.data.rule.test) == (0.15, 0.15)
    assert {n: (m.kind, m.column) for n, m in recipe.modalities.items()} == {
        "product_title": ("text", "Product Title"),
        "photo": ("image", "Photo"),
    }
    assert recipe.modalities["photo"].preprocessing == {"size": [64, 64]}
    assert recipe.modalities["product_title"].preprocessing == {"max_length": 16}
    assert {m.encoder.preset for m in recipe.modalities.values()} == {"small"}
    assert recipe.training.batch_size == 8
    text = shop.with_suffix(".yaml").read_text()
    assert "# encoder: openai/clip-vit-base-patch32" in text
    assert "# encoder: sentence-transformers/all-MiniLM-L6-v2" in text


def test_label_in_doubt_writes_nothing(tmp_path: Path, dimml: Dimml) -> None:
    rows = [f"{n}.png,{n % 2},{n % 3}" for n in range(20)]
    table = write_csv(tmp_path / "t.csv", "photo,class,category", rows)
    code, _, err = dimml("init", table, tmp_path / "r.yaml")
    assert code == 2
    assert "Name the label with --label COLUMN" in err
    assert list(tmp_path.iterdir()) == [table]
    assert recipe_of(table, "class").data.label == "class"


def test_label_option_that_names_no_column_is_rejected(shop: Path) -> None:
    with pytest.raises(UsageError, match=r"no column for Categry \(did you mean Category"):
        recipe_of(shop, "Categry")


def test_label_option_that_names_files_is_rejected(shop: Path) -> None:
    with pytest.raises(UsageError, match="--label Photo: the column holds 0 distinct values"):
        recipe_of(shop, "Photo")


def test_recordings_set_the_seconds(tmp_path: Path) -> None:
    for number in range(12):
        time = np.arange(int(8000 * (1 + number / 10))) / 8000
        soundfile.write(tmp_path / f"{number}.wav", 0.3 * np.sin(time * 2000), 8000)
    rows = [f"{n}.wav,{'high' if n % 2 else 'low'}" for n in range(12)]
    recipe = recipe_of(write_csv(tmp_path / "calls.csv", "call,class", rows))
    assert recipe.modalities["call"].kind == "audio"
    # The 90th percentile of 1.0 to 2.1 s.
    assert recipe.modalities["call"].preprocessing == {"seconds": 2.0}
    text = (tmp_path / "calls.yaml").read_text()
    assert "# encoder: openai/whisper-base" in text


def test_recordings_that_cannot_be_read_are_reported(tmp_path: Path, dimml: Dimml) -> None:
    for number in range(8):
        (tmp_path / f"{number}.m4a").write_bytes(b"????ftypM4A ")
    rows = [f"{n}.m4a,{n % 2}" for n in range(8)]
    table = write_csv(tmp_path / "calls.csv", "call,class", rows)
    code, _, err = dimml("init", table, tmp_path / "r.yaml")
    assert code == 0
    assert "call: none of the recordings that were tried can be read" in err


def test_column_of_splits_is_used(tmp_path: Path) -> None:
    names = ("Train", "Train", "Val", "Test")
    rows = [f"{n}.png,{n // 4 % 2},{names[n % 4]}" for n in range(32)]
    recipe = recipe_of(write_csv(tmp_path / "t.csv", "photo,class,Set", rows))
    assert recipe.data.split == "Set"


def test_column_of_splits_without_validation_is_reported(tmp_path: Path, dimml: Dimml) -> None:
    rows = [f"{n}.png,{n // 4 % 2},{('train', 'test')[n % 2]}" for n in range(32)]
    table = write_csv(tmp_path / "t.csv", "photo,class,split", rows)
    _, _, err = dimml("init", table, tmp_path / "r.yaml")
    assert "warning: the column `split` has no row of the validation split" in err


def test_column_of_other_sets_is_no_split(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n // 4 % 2},{('kitchen', 'garden')[n % 2]}" for n in range(32)]
    recipe = recipe_of(write_csv(tmp_path / "t.csv", "photo,class,Set", rows))
    assert recipe.data.rule is not None
    assert "repeated values: Set" in (tmp_path / "t.yaml").read_text()


def test_id_column_is_named(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},s-{n},k{n}" for n in range(20)]
    recipe = recipe_of(write_csv(tmp_path / "t.csv", "photo,class,other,SKU", rows))
    assert recipe.data.id == "SKU"


def test_columns_with_yaml_syntax_are_quoted(tmp_path: Path) -> None:
    rows = [f"{n}.png,{n % 2},{n}.png" for n in range(20)]
    recipe = recipe_of(write_csv(tmp_path / "t.csv", '"a: {b}, #c",no,on', rows), "no")
    assert recipe.data.label == "no"
    assert {m.column or n for n, m in recipe.modalities.items()} == {"a: {b}, #c", "on"}


def test_missing_files_and_cells_are_counted(shop: Path, dimml: Dimml) -> None:
    for number in range(5):
        (shop.parent / "photos" / f"{number}.png").unlink()
    shop.write_text(shop.read_text() + "a bag;;bags\n")
    _, _, err = dimml("init", shop, shop.parent / "r.yaml")
    assert "5 of 64 files do not exist (paths are relative to the table); the first: no such" in err
    assert "photo: image in `Photo`; 1.5% of the cells are empty" in err
    assert "# 5 of 64 files do not exist" in (shop.parent / "r.yaml").read_text()


def test_json_has_the_profile_of_the_columns(shop: Path, dimml: Dimml) -> None:
    code, out, _ = dimml("init", shop, shop.parent / "r.yaml", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["recipe"] == str(shop.parent / "r.yaml")
    assert (document["rows"], document["complete"], document["label"]) == (64, True, "Category")
    kinds = {column["name"]: column["kind"] for column in document["columns"]}
    assert kinds == {"Product Title": "text", "Photo": "image", "Category": "category"}


def test_existing_recipe_is_kept(shop: Path, dimml: Dimml) -> None:
    path = shop.parent / "r.yaml"
    path.write_text("mine")
    code, _, err = dimml("init", shop, path)
    assert code == 2
    assert "exists; name another file, or replace it with --overwrite" in err
    assert path.read_text() == "mine"
    assert dimml("init", shop, path, "--overwrite")[0] == 0
    assert load_recipe(path).name == "shop"


def test_parquet_of_bytes_and_structs_is_profiled(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(8000) / 5), 8000, format="FLAC")
    array = {"array": [0.1] * 32_000, "sampling_rate": 16_000}
    columns = {
        "front": [picture(n) for n in range(8)],
        "rear": [{"bytes": picture(n), "path": None} for n in range(8)],
        "clip": [[picture(n), picture(n + 1)] for n in range(8)],
        "call": [file.getvalue()] * 8,
        "word": [array] * 8,
        "label": [n % 2 for n in range(8)],
    }
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns), table)
    modalities = recipe_of(table).modalities
    assert {name: m.kind for name, m in modalities.items()} == {
        "front": "image",
        "rear": "image",
        "clip": "image",
        "call": "audio",
        "word": "audio",
    }
    assert modalities["clip"].preprocessing["frames"] == 2
    assert modalities["call"].preprocessing == {"seconds": 1.0}
    assert modalities["word"].preprocessing == {"seconds": 2.0}


def test_texts_set_the_length_and_the_language(tmp_path: Path) -> None:
    words = " ".join(["größer"] * 30)
    rows = [f"{words} {n},{n % 2}" for n in range(20)]
    table = write_csv(tmp_path / "t.csv", "review,sentiment", rows)
    assert recipe_of(table).modalities["review"].preprocessing == {"max_length": 64}
    assert "# encoder: intfloat/multilingual-e5-base" in (tmp_path / "t.yaml").read_text()


def test_pretrained_models_in_the_comments_fit_the_recipe(tmp_path: Path) -> None:
    rows = [{"clip": ["1.png", "2.png"], "review": f"größer {n}", "y": n % 2} for n in range(9)]
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe_of(table)
    path = tmp_path / "t.yaml"
    lines = [line for line in path.read_text().splitlines() if "    encoder: small" not in line]
    lines = [line for line in lines if not line.startswith("    preprocessing:")]
    text = "\n".join(lines).replace("# encoder:", "encoder:")
    path.write_text(text.replace("# preprocessing:", "preprocessing:"))
    clip, review = load_recipe(path).modalities.values()
    assert clip.encoder.pretrained == "openai/clip-vit-base-patch32"
    assert clip.preprocessing == {"frames": 2}
    assert review.encoder.pretrained == "intfloat/multilingual-e5-base"
    assert review.preprocessing == {"prompt": "query: "}


@pytest.mark.parametrize("command", ["init", "check"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; sys.argv[1:] = ['{command}', '--help']\n"
        "from dimml.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'torch', 'jinja2', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"Usage: -c {command}" in done.stdout
    assert "HEAVY []" in done.stdout


def test_table_without_rows_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no rows; write one row per sample"):
        recipe_of(write_csv(tmp_path / "t.csv", "photo,label", []))


def test_table_of_one_column_is_rejected(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "label", ["a", "b"] * 5)
    with pytest.raises(UsageError, match="no column of images, recordings or free text"):
        recipe_of(table)


def test_more_rows_than_are_read_are_reported(
    shop: Path, dimml: Dimml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.profile.MAX_ROWS", 40)
    _, _, err = dimml("init", shop, shop.parent / "r.yaml")
    assert "warning: only the first 40 rows were looked at; there are more" in err


def test_more_columns_than_modalities_are_reported(tmp_path: Path, dimml: Dimml) -> None:
    header = ",".join(["label", *(f"photo{n}" for n in range(12))])
    rows = [",".join([str(n % 2), *(f"{n}.png" for _ in range(12))]) for n in range(10)]
    _, _, err = dimml("init", write_csv(tmp_path / "t.csv", header, rows), tmp_path / "r.yaml")
    assert "at most 10 modalities; left out: photo10, photo11" in err
    assert len(load_recipe(tmp_path / "r.yaml").modalities) == 10
