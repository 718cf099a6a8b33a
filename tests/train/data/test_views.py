"""Augmented views of frozen encoders: stored for training rows, and drawn in each epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import PretrainedFolder
from tests.train.data.frozen import features_of, make_encoder, split_of, write_images
from train.data.augment import NO_AUGMENTATION, Augmentation
from train.data.loader import RunData
from train.data.prepare import PreparedData, prepare
from train.recipe import Recipe, load_recipe

VIEWS = 3


@pytest.fixture(scope="module")
def recipe(recipe_file: Path, pretrained_folder: PretrainedFolder) -> Recipe:
    front = f"{{pretrained: {pretrained_folder('image', 'resnet')}, views: {VIEWS}}}"
    settings = ["front.preprocessing={}", f"front.encoder={front}", "front.augment=1"]
    return load_recipe(recipe_file, [f"modalities.{setting}" for setting in settings])


@pytest.fixture(scope="module")
def prepared(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(recipe, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def data(recipe: Recipe, prepared: PreparedData) -> RunData:
    return RunData(recipe, prepared.stored, prepared.splits, unlabelled=False)


def stored_features(prepared: PreparedData, split: str) -> list[np.ndarray]:
    samples = prepared.splits[split]
    items = [samples[number] for number in range(len(samples))]
    return [item["front"]["features"] for item in items if "front" in item]


def drawn_views(data: RunData, prepared: PreparedData, epoch: int) -> list[int]:
    """Return the number of the view of each row that a training epoch uses, in file order."""
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = [group for batch in loader for group in batch.inputs["front"]]
    used = np.concatenate([group.inputs["features"].numpy() for group in batches])
    views = []
    for stored in stored_features(prepared, "train"):
        places = np.argwhere((used[:, None] == stored[None]).all(axis=2))
        # By chance an augmentation may change nothing.
        views.append(int(places[0, 1]))
    return views


class TestStored:
    def test_training_rows_have_all_views_and_validation_rows_one(
        self, prepared: PreparedData
    ) -> None:
        for split, views in (("train", VIEWS), ("validation", 1)):
            shapes = {features.shape for features in stored_features(prepared, split)}
            assert shapes == {(views, prepared.frozen["front"].width)}

    def test_first_view_is_the_plain_value_and_the_others_differ(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path
    ) -> None:
        folder, paths = pretrained_folder("image", "resnet"), write_images(tmp_path / "a", 8)
        plain = make_encoder(folder, "image", tmp_path / "one")
        several = make_encoder(
            folder, "image", tmp_path / "three", views=VIEWS, augmentation=Augmentation(strength=1)
        )
        one = features_of(split_of(plain, paths, tmp_path / "one"))
        three = features_of(split_of(several, paths, tmp_path / "three"))
        assert several.encoded == VIEWS * 8
        np.testing.assert_allclose(three[:, :1], one, atol=1e-5)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            assert (np.abs(three[:, first] - three[:, second]).max(axis=1) > 1e-3).all()

    def test_views_are_the_same_in_every_store(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path
    ) -> None:
        folder, paths = pretrained_folder("image", "resnet"), write_images(tmp_path / "a", 4)
        found = []
        for name in ("a", "b"):
            cache = tmp_path / name
            encoder = make_encoder(
                folder, "image", cache, views=VIEWS, augmentation=Augmentation(strength=1)
            )
            found.append(features_of(split_of(encoder, paths, cache)))
        np.testing.assert_array_equal(*found)

    def test_more_views_encode_only_the_new_ones(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path
    ) -> None:
        folder, paths = pretrained_folder("image", "resnet"), write_images(tmp_path / "a", 4)
        counts = []
        for views, strength in ((1, 0.5), (3, 0.5), (2, 0.5), (2, 1.0), (1, 1.0)):
            encoder = make_encoder(
                folder, "image", tmp_path, views=views, augmentation=Augmentation(strength=strength)
            )
            settings = repr(encoder.identity)
            split_of(encoder, paths, tmp_path, settings=settings)
            counts.append(encoder.encoded)
        assert counts == [4, 8, 0, 4, 0]


class TestDrawn:
    def test_each_epoch_draws_other_views_and_repeats_them_from_the_seed(
        self, data: RunData, prepared: PreparedData
    ) -> None:
        epochs = [drawn_views(data, prepared, epoch) for epoch in (0, 1, 2, 0)]
        assert epochs[0] == epochs[3]
        assert epochs[0] != epochs[1] != epochs[2]
        for views in epochs:
            assert set(views) == set(range(VIEWS))

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_evaluation_uses_the_plain_value(
        self, data: RunData, prepared: PreparedData, split: str
    ) -> None:
        loader = data.plain_train_dataloader() if split == "train" else data.val_dataloader()
        groups = [group for batch in loader for group in batch.inputs["front"]]
        used = np.concatenate([group.inputs["features"].numpy() for group in groups])
        expected = [features[0] for features in stored_features(prepared, split)]
        np.testing.assert_array_equal(used, np.stack(expected))

    def test_no_augmentation_uses_the_plain_value(
        self, recipe: Recipe, prepared: PreparedData
    ) -> None:
        front = recipe.modalities["front"].model_copy(update={"augment": NO_AUGMENTATION})
        modalities = {**recipe.modalities, "front": front}
        plain = recipe.model_copy(update={"modalities": modalities})
        data = RunData(plain, prepared.stored, prepared.splits, unlabelled=False)
        assert set(drawn_views(data, prepared, 0)) == {0}
