"""Encoders in recipes: short forms, defaults that depend on the model, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dimml.errors import RecipeError
from train.encoder_config import EncoderConfig
from train.recipe import load_recipe

GOOD: dict[str, Any] = {
    "name": "seen",
    "data": "data.csv",
    "modalities": {
        "call": {"kind": "audio", "encoder": {"n_mels": 40}},
        "front": {"kind": "image", "encoder": "org/model"},
        "note": "text",
        "rear": {"kind": "image", "encoder": "small"},
    },
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


def encoder(recipe: Path, name: str, *settings: str) -> EncoderConfig:
    prefixed = [f"modalities.{name}.encoder{setting}" for setting in settings]
    return load_recipe(recipe, prefixed).modalities[name].encoder


class TestShortForm:
    def test_string_is_a_preset_or_a_pretrained_model(self, recipe: Path) -> None:
        rear, front = encoder(recipe, "rear"), encoder(recipe, "front")
        assert (rear.preset, rear.pretrained) == ("small", None)
        assert (front.preset, front.pretrained) == (None, "org/model")

    @pytest.mark.parametrize("model", ["org/model@v1.0", "./folder", "resnet-18"])
    def test_every_other_string_is_a_model(self, recipe: Path, model: str) -> None:
        assert encoder(recipe, "front", f"={model}").pretrained == model

    def test_set_inside_a_short_form_keeps_the_model(self, recipe: Path) -> None:
        tuned = encoder(recipe, "front", ".tune=lora", ".lora_rank=4")
        assert (tuned.pretrained, tuned.tune, tuned.lora_rank) == ("org/model", "lora", 4)

    def test_set_gives_a_modality_in_short_form_a_model(self, recipe: Path) -> None:
        assert encoder(recipe, "note", ".pretrained=org/model").frozen

    @pytest.mark.parametrize("name", ["call", "note", "rear"])
    def test_encoder_without_a_model_has_the_preset_small(self, recipe: Path, name: str) -> None:
        assert encoder(recipe, name).preset == "small"
        assert encoder(recipe, name, ".preset=null").preset == "small"
        assert not encoder(recipe, name).frozen


class TestDefaults:
    @pytest.mark.parametrize(
        ("tune", "rate"), [("frozen", 2e-5), ("last_2", 2e-5), ("full", 2e-5), ("lora", 2e-4)]
    )
    def test_learning_rate_follows_from_what_is_tuned(
        self, recipe: Path, tune: str, rate: float
    ) -> None:
        assert encoder(recipe, "front", f".tune={tune}").learning_rate == rate
        assert encoder(recipe, "front", ".learning_rate=3e-4", f".tune={tune}").learning_rate == (
            3e-4
        )

    def test_model_is_frozen_with_one_view_by_default(self, recipe: Path) -> None:
        found = encoder(recipe, "front")
        assert found.frozen
        assert (found.views, found.adapter, found.pooling) == (1, "auto", None)
        assert (found.layer_decay, found.lora_rank) == (0.9, 8)

    def test_preset_has_no_settings_of_a_model(self, recipe: Path) -> None:
        found = encoder(recipe, "rear")
        assert found.tune is found.views is found.learning_rate is found.layer_decay is None

    def test_null_stands_for_the_default(self, recipe: Path) -> None:
        found = encoder(recipe, "front", ".learning_rate=null", ".tune=null", ".views=null")
        assert found == encoder(recipe, "front")


@pytest.mark.parametrize(
    "settings",
    [[], ["modalities.front.encoder.tune=lora"], ["modalities.front.encoder.views=4"]],
)
def test_dumped_recipe_loads_equal(recipe: Path, settings: list[str]) -> None:
    loaded = load_recipe(recipe, settings)
    recipe.write_text(yaml.safe_dump(loaded.model_dump(mode="json"), sort_keys=False))
    assert load_recipe(recipe) == loaded


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("front.encoder.preset=small", "front.encoder: give either a preset or a pretrained"),
        ("rear.encoder.pretrained=org/model", "rear.encoder: give either a preset or a pretrained"),
        ("rear.encoder.tune=lora", "rear.encoder: tune is for a pretrained model; set `pretrai"),
        ("note.encoder.views=2", "note.encoder: views is for a pretrained model; set `pretrained"),
        ("call.encoder.learning_rate=1", "call.encoder: learning_rate is for a pretrained model"),
        ("front.encoder={pretrained: a/b, tune: lora, views: 2}", "views is for a frozen model"),
        ("front.encoder={pretrained: a/b, tune: full, views: 2}", "views is for a frozen model"),
        ("front.encoder.tune=some", "front.encoder.tune: Input should be 'frozen', 'last_2',"),
        ("front.encoder.views=0", "front.encoder.views: Input should be greater than or equal"),
        ("front.encoder.adapter=deep", "front.encoder.adapter: Input should be 'auto', 'linear'"),
        ("front.encoder.layer_decay=2", "front.encoder.layer_decay: Input should be less than or"),
        ("front.encoder.tunes=full", "front.encoder.tunes: unknown key; did you mean tune?"),
        ("front.encoder=", "front.encoder: Input should be a valid dictionary"),
    ],
)
def test_error_of_an_invalid_encoder_names_its_place(
    recipe: Path, setting: str, message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe, [f"modalities.{setting}"])
    assert message in str(raised.value)
    assert len(str(raised.value).split("\n")) == 2
