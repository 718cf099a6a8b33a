"""The recipes of the published data sets have the settings of the method's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimml.modalities import KINDS
from train.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[3] / "train" / "recipes"
DUC_TEMPERATURES = {"crema_d": 50, "ave": 10, "ucf101": 10, "modelnet40": 50}
INPUTS = {
    "crema_d": {"audio": (257, 1004), "video": (3, 3, 224, 224)},
    "ave": {"audio": (257, 1004), "video": (4, 3, 224, 224)},
    "ucf101": {"flow": (10, 2, 224, 224), "image": (3, 224, 224)},
    "modelnet40": {"front": (3, 224, 224), "rear": (3, 224, 224)},
}


def load(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml")


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_have_the_shapes_of_the_source(name: str) -> None:
    recipe = load(name)
    shapes = {}
    for modality, config in recipe.modalities.items():
        kind = KINDS[config.kind](modality, config.preprocessing)
        [array] = kind.preprocess(kind.decode(kind.example())).values()
        shapes[modality] = array.shape
    assert shapes == INPUTS[name]


@pytest.mark.parametrize("name", INPUTS)
def test_training_has_the_hyper_parameters_of_the_source(name: str) -> None:
    recipe = load(name)
    training = recipe.training
    assert recipe.feature_dim == 512
    assert {modality.encoder.preset for modality in recipe.modalities.values()} == {"resnet18"}
    assert (training.optimizer, training.momentum, training.schedule) == ("sgd", 0.9, "step")
    assert (training.learning_rate, training.weight_decay) == (1e-3, 1e-4)
    assert (training.step_epochs, training.step_factor) == (70, 0.1)
    assert (training.epochs, training.batch_size, training.warm_up) == (150, 16, 20)
    assert training.duc_temperature == DUC_TEMPERATURES[name]


@pytest.mark.parametrize("name", INPUTS)
def test_second_recipe_has_frozen_encoders_for_the_same_table(name: str) -> None:
    trained, frozen = load(name), load(f"{name}_frozen")
    assert frozen.data == trained.data
    assert frozen.modalities.keys() == trained.modalities.keys()
    for modality in frozen.modalities.values():
        assert modality.encoder.frozen == (modality.kind != "flow")
