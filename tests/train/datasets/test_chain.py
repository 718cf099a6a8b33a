"""Published data sets from their files to an answer over HTTP, through every command.

The recipes are those of the project with one epoch; only the slow tests have the encoders and the
input sizes of the recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dimml.bundle import EVALUATION
from tests.conftest import Dimml, OpenClient
from tests.train.datasets import trees

RECIPES = Path(__file__).parents[3] / "train" / "recipes"
SETTINGS = ("training.epochs=1", "training.warm_up=0", "training.batch_size=4")
SIZES: dict[str, dict[str, dict[str, object]]] = {
    "crema_d": {"audio": {"seconds": 0.5}, "video": {"size": [48, 48]}},
    "ave": {"audio": {"seconds": 0.5}, "video": {"size": [48, 48]}},
    "ucf101": {name: {"size": [48, 48], "resize_to": 52} for name in ("flow", "image")},
    "modelnet40": {name: {"size": [48, 48]} for name in ("front", "rear")},
}
"""Data set to modality to the preprocessing of the fast tests."""

TREES = {
    "crema_d": trees.write_crema_d,
    "ave": trees.write_ave,
    "ucf101": trees.write_ucf101,
    "modelnet40": trees.write_modelnet40,
}
Chain = Callable[..., None]


def small(name: str) -> list[str]:
    """Return the settings that replace the encoders and input sizes of a recipe by small ones."""
    settings = ["feature_dim=32"]
    for modality, preprocessing in SIZES[name].items():
        settings.append(f"modalities.{modality}.encoder.preset=small")
        for key, value in preprocessing.items():
            settings.append(f"modalities.{modality}.preprocessing.{key}={value}")
    return settings


@pytest.fixture
def run_chain(tmp_path: Path, dimml: Dimml, open_client: OpenClient) -> Chain:
    """Return a function that runs the chain, and checks what each step wrote."""

    def command(*words: object) -> str:
        code, printed, said = dimml(*words)
        assert code == 0, said
        return printed.strip()

    def run(name: str, settings: Sequence[str], *words: object) -> None:
        root = TREES[name](tmp_path / "root")
        manifest = Path(command("data", name, root, tmp_path / "data", *words))
        rows = pq.read_table(manifest).to_pylist()
        changes = (f"data={manifest}", *SETTINGS, *settings)
        options = [word for change in changes for word in ("--set", change)]
        recipe = RECIPES / f"{name}.yaml"
        run_folder, bundle = tmp_path / "run", tmp_path / "bundle"
        command("train", recipe, "--out", run_folder, *options)
        command("export", run_folder, bundle)
        command("evaluate", bundle, manifest)
        assert len(json.loads((bundle / EVALUATION).read_text())["subsets"]) == 3
        scores = tmp_path / "scores.parquet"
        command("score", bundle, manifest, scores, "--workers", 1, "--providers", "cpu")
        scored = pq.read_table(scores).to_pylist()
        assert [row["id"] for row in scored] == [row["id"] for row in rows]
        assert all(row["error_code"] is None for row in scored)
        check_request(bundle, manifest, rows, scored)

    def check_request(
        bundle: Path, manifest: Path, rows: list[dict[str, Any]], scored: list[dict[str, Any]]
    ) -> None:
        row, score = rows[-1], scored[-1]
        modalities = list(row)[3:]
        files = [
            (name, (manifest.parent / path).read_bytes())
            for name in modalities
            for path in (row[name] if isinstance(row[name], list) else [row[name]])
        ]
        with open_client(bundle) as client:
            answer = client.post("/predict", files=files)
        assert answer.status_code == 200
        assert answer.json()["label"] == score["label"]
        assert answer.json()["confidence"] == pytest.approx(score["confidence"], abs=1e-5)
        assert all(answer.json()["modalities"][name]["present"] for name in modalities)

    return run


def test_crema_d_from_its_files_to_an_answer(run_chain: Chain) -> None:
    run_chain("crema_d", small("crema_d"))


def test_ave_from_its_files_to_an_answer(run_chain: Chain) -> None:
    run_chain("ave", small("ave"))


def test_ucf101_from_its_files_to_an_answer(run_chain: Chain) -> None:
    run_chain("ucf101", small("ucf101"), "--split", 2)


def test_modelnet40_from_its_files_to_an_answer(run_chain: Chain) -> None:
    run_chain("modelnet40", small("modelnet40"))


@pytest.mark.slow("trains two ResNet-18 on inputs of full size for each data set")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TREES)
def test_recipe_runs_with_its_own_encoders_and_sizes(name: str, run_chain: Chain) -> None:
    run_chain(name, ())
