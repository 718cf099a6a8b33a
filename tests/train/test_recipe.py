"""Recipes are strict: each error names the place, the nearest key and the accepted keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dimml.errors import RecipeError
from train.recipe import Recipe, load_recipe

GOOD: dict[str, Any] = {
    "name": "seen",
    "data": "data.csv",
    "modalities": {
        "front": {"kind": "image", "preprocessing": {"size": [32, 32]}, "encoder": "resnet18"},
        "encoder": {"kind": "audio", "encoder": {"preset": "small", "n_mels": 40}},
        "note": "text",
    },
    "training": {"epochs": 3},
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


def test_recipe_has_the_values_of_its_file_and_defaults(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert list(loaded.modalities) == ["encoder", "front", "note"]
    assert loaded.modalities["front"].encoder.preset == "resnet18"
    assert loaded.modalities["encoder"].encoder.n_mels == 40
    assert loaded.modalities["note"].kind == "text"
    assert loaded.training.epochs == 3
    assert loaded.training.batch_size == Recipe.model_fields["training"].default.batch_size


def test_recipes_of_the_project_are_valid() -> None:
    paths = sorted((Path(__file__).parents[2] / "train" / "recipes").glob("*.yaml"))
    assert [load_recipe(path).name for path in paths] == [path.stem for path in paths]
    assert paths


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("key", "nearest"),
        [
            ("feature_dims", "feature_dim"),
            ("training.lerning_rate", "learning_rate"),
            ("modalities.front.encodr", "encoder"),
            ("modalities.front.preprocessing.chanels", "channels"),
            ("modalities.encoder.augmnt", "augment"),
            ("modalities.encoder.preprocessing.hop_lenght", "hop_length"),
            ("modalities.encoder.encoder.n_mel", "n_mels"),
        ],
    )
    def test_error_of_an_unknown_key_names_the_nearest_key_at_every_level(
        self, recipe: Path, key: str, nearest: str
    ) -> None:
        with pytest.raises(RecipeError) as raised:
            load_recipe(recipe, [f"{key}=1"])
        heading, line = str(raised.value).split("\n")
        assert heading == f"{recipe} is not a valid recipe:"
        assert line.startswith(f"  {key}: unknown key; did you mean {nearest}? accepted: ")
        assert nearest in line.rpartition("accepted: ")[2].split(", ")

    def test_error_of_an_unknown_key_lists_the_accepted_keys(self, recipe: Path) -> None:
        with pytest.raises(RecipeError, match=r"zzz: unknown key; accepted: warm_up, .*, epochs, "):
            load_recipe(recipe, ["training.zzz=1"])

    def test_all_unknown_keys_are_reported_at_once(self, recipe: Path) -> None:
        keys = ["nam", "training.epoch", "modalities.front.preprocessing.sise"]
        with pytest.raises(RecipeError) as raised:
            load_recipe(recipe, [f"{key}=1" for key in keys])
        problems = str(raised.value).split("\n")[1:]
        assert sorted(line.split(":")[0].strip() for line in problems) == sorted(keys)


class TestSet:
    @pytest.mark.parametrize(
        ("setting", "where", "value"),
        [
            ("seed=7", ("seed",), 7),
            ("training.epochs=5", ("training", "epochs"), 5),
            ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
            ("training.normalize=true", ("training", "normalize"), True),
            ("data=other=data.csv", ("data", "table"), "other=data.csv"),
            ("data.label=kind", ("data", "label"), "kind"),
            ("data.split={by: speaker}", ("data", "split", "by"), "speaker"),
            (
                "modalities.front.encoder=small",
                ("modalities", "front", "encoder", "preset"),
                "small",
            ),
            (
                "modalities.front.preprocessing.size=[64, 48]",
                ("modalities", "front", "preprocessing", "size"),
                [64, 48],
            ),
            ("modalities.rear=image", ("modalities", "rear", "kind"), "image"),
            ("modalities.note.augment=0", ("modalities", "note", "augment", "strength"), 0),
            (
                "modalities.front.encoder.n_mels=8",
                ("modalities", "front", "encoder", "n_mels"),
                8,
            ),
            (
                "modalities.encoder.preprocessing.seconds=null",
                ("modalities", "encoder", "preprocessing", "seconds"),
                None,
            ),
        ],
    )
    def test_set_replaces_the_value_of_the_file(
        self, recipe: Path, setting: str, where: tuple[str, ...], value: object
    ) -> None:
        def value_at(overrides: list[str]) -> Any:
            place: Any = load_recipe(recipe, overrides).model_dump(mode="json")
            for key in where:
                place = place.get(key, {}) if isinstance(place, dict) else {}
            return place

        assert value_at([]) != value
        assert value_at([setting]) == value

    def test_set_inside_a_short_form_keeps_the_short_form(self, recipe: Path) -> None:
        settings = ["modalities.note.augment=0", "modalities.front.encoder.n_mels=8"]
        modalities = load_recipe(recipe, settings).modalities
        assert modalities["note"].kind == "text"
        assert modalities["front"].encoder.preset == "resnet18"

    def test_augment_may_be_a_number_or_a_mapping(self, recipe: Path) -> None:
        settings = ["modalities.front.augment=0.2", "modalities.front.augment.crop=0.3"]
        augment = load_recipe(recipe, settings).modalities["front"].augment
        assert (augment.strength, augment.crop, augment.mirror) == (0.2, 0.3, False)
        with pytest.raises(RecipeError, match="crop and mirror are for pictures and flow"):
            load_recipe(recipe, ["modalities.note.augment.mirror=true"])

    def test_last_of_two_equal_settings_wins(self, recipe: Path) -> None:
        assert load_recipe(recipe, ["seed=1", "seed=2"]).seed == 2

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("seed", "write key=value"),
            ("name.more=1", "not inside a mapping"),
            ("modalities.note.kind.more=0", "not inside a mapping"),
            ("seed=[", "the value is not YAML"),
            ("seed=!!python/object/apply:os.getcwd []", "the value is not YAML"),
        ],
    )
    def test_error_of_an_invalid_setting_quotes_the_setting(
        self, recipe: Path, setting: str, message: str
    ) -> None:
        with pytest.raises(RecipeError, match=message) as raised:
            load_recipe(recipe, [setting])
        assert f"--set {setting}: " in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs=many", "training.epochs: Input should be a valid integer"),
        ("training.epochs=", "training.epochs: Input should be a valid integer"),
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1"),
        ("training=fast", "training: Input should be a valid dictionary"),
        ("coverage=1", "coverage: Input should be less than 1"),
        ("method=magic", "method: no method 'magic'; choose one of: dimml, joint"),
        ("name=../up", "name: String should match pattern"),
        ("modalities={}", "modalities: Dictionary should have at least 1 item"),
        ("modalities=[text]", "modalities: Input should be a valid dictionary"),
        (
            "modalities.note=video",
            "modalities.note.kind: Input should be 'audio', 'image', 'text' or",
        ),
        (
            "modalities.front.encoder.preset=huge",
            "modalities.front.encoder.preset: Input should be 'sm",
        ),
        ("modalities.front.preprocessing=4", "front.preprocessing: Input should be a valid dict"),
        ("modalities.front.preprocessing.size=4", "front.preprocessing.size: Input should be a"),
        ("modalities.front.preprocessing.channels=2", "front.preprocessing.channels: Input shoul"),
        ("modalities.front.preprocessing.mean=[0, 0]", "mean must hold 1 or 3 values"),
        ("modalities.json=text", "modalities: json: the name is reserved: options of `dimml pred"),
        ("modalities.note_label=text", "note_label: the name is reserved: scores of note are note"),
        ("modalities.a/b=text", "modalities.a/b: a name starts with a letter of a to z"),
        ("modalities.Photo=image", "modalities.Photo: a name starts with a letter of a to z"),
        ("modalities.front.kind=film", "modalities.front.kind: Input should be 'audio'"),
    ],
)
def test_error_of_an_invalid_value_names_its_place(
    recipe: Path, setting: str, message: str
) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe, [setting])
    assert message in str(raised.value)
    assert len(str(raised.value).split("\n")) == 2


class TestFiles:
    @pytest.mark.parametrize("content", ["", "# nothing\n", "- a\n- b\n", "seven"])
    def test_file_without_a_mapping_is_rejected(self, recipe: Path, content: str) -> None:
        recipe.write_text(content)
        with pytest.raises(RecipeError, match="a recipe is a mapping of keys to values"):
            load_recipe(recipe)

    def test_python_tag_is_rejected_and_not_run(self, recipe: Path, tmp_path: Path) -> None:
        ran = tmp_path / "ran"
        recipe.write_text(f"name: !!python/object/apply:os.mkdir [{str(ran)!r}]\n")
        with pytest.raises(RecipeError, match="is not YAML: could not determine a constructor"):
            load_recipe(recipe)
        assert not ran.exists()

    @pytest.mark.parametrize("content", [b"name: [", b"\xff\xfe\x00", b"a: b: c"])
    def test_file_that_is_not_yaml_is_rejected(self, recipe: Path, content: bytes) -> None:
        recipe.write_bytes(content)
        with pytest.raises(RecipeError, match=r"recipe\.yaml"):
            load_recipe(recipe)

    def test_missing_file_and_folder_are_rejected(self, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere.yaml", tmp_path):
            with pytest.raises(RecipeError, match="cannot read the recipe"):
                load_recipe(path)
