"""Runs with pretrained encoders in miniature: frozen, tuned, stopped and resumed, compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimml import Predictor
from dimml.errors import InterruptedRunError
from dimml.samples import subsets
from export.bundle import export_run
from tests.conftest import PretrainedFolder
from train.compare.trial import TrialRunner
from train.data.corruptions import read_test_split
from train.data.features import FrozenEncoder
from train.data.prepare import prepare
from train.methods.base import Trial
from train.recipe import Recipe, load_recipe
from train.run import load_run, train_run

Models = dict[str, tuple[str, str]]
"""Modality to kind and model type."""
SIGHTINGS: Models = {"front": ("image", "resnet"), "note": ("text", "bert")}
CLIP: Models = {"front": ("image", "clip"), "rear": ("image", "clip")}
WHISPER: Models = {"call": ("audio", "whisper")}
WAV2VEC2: Models = {"call": ("audio", "wav2vec2")}
TUNED_TOO = pytest.mark.slow("an image and a text model are frozen, and this model is tuned")

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe(
    recipe_file: Path, calls_recipe: Path, pretrained_folder: PretrainedFolder, tmp_path: Path
) -> MakeRecipe:
    """Return a function that gives a recipe with copies of models, in `tmp_path / "models"`."""

    def made(models: Models, *settings: str, **encoder: Any) -> Recipe:
        modalities = {}
        for name, (kind, model_type) in models.items():
            folder = tmp_path / "models" / model_type
            if not folder.exists():
                shutil.copytree(pretrained_folder(kind, model_type), folder)
            modalities[name] = {
                "kind": kind,
                "preprocessing": {"seconds": 1.0} if model_type == "whisper" else {},
                "encoder": {"pretrained": str(folder), **encoder},
            }
        changes = ["training.epochs=1", "training.warm_up=0"]
        changes.append(f"modalities={json.dumps(modalities)}")
        source = calls_recipe if "call" in models else recipe_file
        return load_recipe(source, [*changes, *settings])

    return made


def samples_of(recipe: Recipe) -> list[dict[str, Any]]:
    """Return a sample for each subset of the modalities of a recipe."""
    folder = recipe.data.table.parent
    values: dict[str, Any] = {
        "front": folder / "front1.png",
        "rear": folder / "rear1.png",
        "call": folder / "1.wav",
        "note": "it was red",
    }
    return [{name: values[name] for name in subset} for subset in subsets(list(recipe.modalities))]


def check_bundle(recipe: Recipe, folder: Path) -> None:
    """Export a run without its models, and predict every subset."""
    shutil.rmtree(folder / "models")
    export_run(folder / "run", folder / "bundle")
    predictor = Predictor.load(folder / "bundle", "cpu")
    samples = samples_of(recipe)
    for sample, answer in zip(samples, predictor.predict_many(samples), strict=True):
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)
        present = {name for name, modality in answer.modalities.items() if modality.present}
        assert present == set(sample)


class TestFrozen:
    @pytest.mark.parametrize(
        "models",
        [
            pytest.param(SIGHTINGS, id="image-text"),
            pytest.param(WHISPER, id="whisper", marks=TUNED_TOO),
            pytest.param(WAV2VEC2, id="wav2vec2", marks=TUNED_TOO),
        ],
    )
    def test_run_exports_and_predicts_without_its_models(
        self, make_recipe: MakeRecipe, tmp_path: Path, models: Models
    ) -> None:
        recipe = make_recipe(models)
        train_run(recipe, tmp_path / "run", resume=False)
        document = (tmp_path / "run" / "run.json").read_text()
        assert str(tmp_path / "models") not in document
        check_bundle(recipe, tmp_path)

    def test_modalities_with_one_model_share_its_features(
        self, make_recipe: MakeRecipe, tmp_path: Path
    ) -> None:
        frozen = prepare(make_recipe(CLIP), tmp_path / "cache").frozen
        assert frozen["front"].store is frozen["rear"].store

    def test_weights_of_the_models_are_those_of_their_folders(
        self, make_recipe: MakeRecipe, tmp_path: Path
    ) -> None:
        recipe = make_recipe(SIGHTINGS)
        plain = prepare(recipe, tmp_path / "cache").models
        train_run(recipe, tmp_path / "run", resume=False)
        run = load_run(tmp_path / "run")
        for name, encoder in zip(run.kinds, run.model.encoders, strict=True):
            backbone: Any = encoder.backbone
            expected = plain[name].load().state_dict()
            assert all(v.equal(expected[k]) for k, v in backbone.state_dict().items())

    def test_second_run_encodes_nothing(
        self, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = make_recipe(SIGHTINGS)
        train_run(recipe, tmp_path / "run", resume=False)
        monkeypatch.setattr(FrozenEncoder, "_run", lambda *_: pytest.fail("encoded again"))
        for path in (tmp_path / "cache").glob("*.arrow"):
            path.unlink()
        train_run(recipe, tmp_path / "other", resume=False)
        names = ("metrics.csv", "model.safetensors")
        for one, other in [(tmp_path / "run" / n, tmp_path / "other" / n) for n in names]:
            assert one.read_bytes() == other.read_bytes()

    @pytest.mark.parametrize("views", [1, 2])
    def test_resumed_run_equals_an_undisturbed_one(
        self,
        make_recipe: MakeRecipe,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        views: int,
    ) -> None:
        recipe = make_recipe(SIGHTINGS, "training.epochs=3", views=views)
        train_run(recipe, tmp_path / "whole", resume=False)
        with monkeypatch.context() as patch:
            patch.setattr("train.trainer.History.on_train_epoch_start", _stop_in_third_epoch)
            with pytest.raises(InterruptedRunError, match="--resume"):
                train_run(recipe, tmp_path / "run", resume=False)
        # The cache may be deleted between runs.
        shutil.rmtree(tmp_path / "cache")
        train_run(recipe, tmp_path / "run", resume=True)
        for name in ("metrics.csv", "model.safetensors"):
            one, other = (tmp_path / run / name for run in ("run", "whole"))
            assert one.read_bytes() == other.read_bytes(), name


def _stop_in_third_epoch(history: Any, trainer: Any, module: Any) -> None:
    history._started = 0.0
    if trainer.current_epoch == 2:
        raise KeyboardInterrupt


class TestTuned:
    @pytest.mark.parametrize(
        ("tune", "models"),
        [
            ("full", WHISPER),
            pytest.param("lora", WAV2VEC2, marks=pytest.mark.slow("exports another audio model")),
        ],
    )
    def test_run_exports_and_predicts_without_its_models(
        self, make_recipe: MakeRecipe, tmp_path: Path, tune: str, models: Models
    ) -> None:
        recipe = make_recipe(models, tune=tune)
        train_run(recipe, tmp_path / "run", resume=False)
        check_bundle(recipe, tmp_path)

    @pytest.mark.parametrize("tune", ["last_2", "full", "lora"])
    def test_finished_run_has_changed_weights_of_the_same_names(
        self, make_recipe: MakeRecipe, tmp_path: Path, tune: str
    ) -> None:
        recipe = make_recipe({**CLIP, "note": ("text", "bert")}, tune=tune, learning_rate=1e-3)
        plain = prepare(recipe, tmp_path / "cache").models
        before = {name: model.load().state_dict() for name, model in plain.items()}
        train_run(recipe, tmp_path / "run", resume=False)
        run = load_run(tmp_path / "run")
        for name, encoder in zip(run.kinds, run.model.encoders, strict=True):
            backbone: Any = encoder.backbone
            after = backbone.state_dict()
            assert list(after) == list(before[name])
            assert any(not value.equal(before[name][key]) for key, value in after.items())


class TestCompare:
    def test_corrupted_values_pass_the_backbone(
        self, make_recipe: MakeRecipe, tmp_path: Path
    ) -> None:
        recipe = make_recipe(SIGHTINGS)
        prepared = prepare(recipe, tmp_path / "cache")
        split = read_test_split(recipe, prepared, tmp_path / "cache")
        rows = np.flatnonzero(split.full.numpy())
        assert len(split.corrupted) == 3 * 3 + 2 * 3
        for (name, _, level), corrupted in split.corrupted.items():
            clean = np.stack([split.clean[int(row)][name]["features"] for row in rows])
            found = np.stack([corrupted[n][name]["features"] for n in range(len(rows))])
            assert found.shape == clean.shape
            if level == 3:
                changed = np.abs(found - clean).max(axis=(1, 2)) > 1e-4
                # Every other text may keep its few words.
                assert changed.mean() >= (0.5 if name == "note" else 0.99)

    def test_trial_measures_corrupted_values(self, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        runner = TrialRunner(make_recipe(SIGHTINGS), tmp_path / "work", tmp_path / "cache")
        outcome = runner.run("ume", "ume", {}, Trial(), 0)
        found = outcome.documents["ume"]
        assert set(found["corruption"]) == set(SIGHTINGS)
        assert 0 <= found["corruption"]["front"]["noise"]["3"]["accuracy"] <= 1
        assert outcome.score > 0.5
