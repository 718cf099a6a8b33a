"""Features of frozen encoders: computed once per content, whatever the batch, and kept on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dimml.errors import InterruptedRunError, ManifestError
from dimml.nn.encoders import pool_frames
from tests.conftest import PretrainedFolder
from tests.train.data.frozen import (
    features_of,
    make_encoder,
    split_of,
    texts,
    write_images,
)
from train.data.features import FrozenEncoder


@pytest.fixture
def bert(pretrained_folder: PretrainedFolder) -> Path:
    return pretrained_folder("text", "bert")


@pytest.fixture
def resnet(pretrained_folder: PretrainedFolder) -> Path:
    return pretrained_folder("image", "resnet")


def alone(encoder: FrozenEncoder, value: Any) -> np.ndarray:
    """Return the features [width] of the backbone run on one value."""
    kind, backbone = encoder.kind, encoder.model.load()
    inputs = kind.collate([kind.preprocess(kind.decode(value))])
    tensors = [torch.from_numpy(inputs[name]) for name in kind.input_names]
    with torch.no_grad():
        image = encoder.model.settings.kind == "image"
        features = pool_frames(backbone, tensors[0]) if image else backbone(*tensors)
    found: np.ndarray = features[0].numpy()
    return found


def write_recordings(folder: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.wav" for number in range(6)]
    for number, path in enumerate(paths):
        soundfile.write(path, 0.3 * random.standard_normal(5000 + 3000 * number), 16_000)
    return paths


class TestContent:
    def test_copied_or_touched_file_is_not_encoded_again(
        self, resnet: Path, tmp_path: Path
    ) -> None:
        paths, cache = write_images(tmp_path / "a", 5), tmp_path / "cache"
        encoder = make_encoder(resnet, "image", cache)
        before = split_of(encoder, paths, cache)
        assert encoder.encoded == 5

        copies = [Path(shutil.copy(path, tmp_path / f"copy-{path.name}")) for path in paths]
        paths[0].touch()
        again = make_encoder(resnet, "image", cache)
        for values in (paths, copies):
            split = split_of(again, values, cache)
            np.testing.assert_array_equal(features_of(split), features_of(before))
        assert again.encoded == 0
        assert len(list(cache.glob("train-*.arrow"))) == 3

    def test_changed_file_alone_is_encoded_again(self, resnet: Path, tmp_path: Path) -> None:
        paths, cache = write_images(tmp_path / "a", 5), tmp_path / "cache"
        before = features_of(split_of(make_encoder(resnet, "image", cache), paths, cache))
        shutil.copy(write_images(tmp_path / "b", 8)[7], paths[2])
        shutil.copy(paths[1], paths[3])
        encoder = make_encoder(resnet, "image", cache)
        after = features_of(split_of(encoder, paths, cache))
        assert encoder.encoded == 1
        assert [row.tolist() == old.tolist() for row, old in zip(after, before, strict=True)] == [
            *(True, True, False, False, True)
        ]
        assert after[3].tolist() == after[1].tolist()

    def test_equal_texts_are_encoded_once(self, bert: Path, tmp_path: Path) -> None:
        encoder = make_encoder(bert, "text", tmp_path)
        features = features_of(split_of(encoder, texts(50) * 3, tmp_path))
        assert encoder.encoded == 50
        np.testing.assert_array_equal(features[:50], features[100:])
        split_of(encoder, texts(60), tmp_path, "validation")
        assert encoder.encoded == 60

    def test_text_in_a_file_counts_as_the_text(self, bert: Path, tmp_path: Path) -> None:
        path = tmp_path / "a.txt"
        path.write_text("it was red")
        encoder = make_encoder(bert, "text", tmp_path)
        split_of(encoder, [path, "it was red", b"it was red"], tmp_path)
        assert encoder.encoded == 1

    def test_frames_count_in_their_order(self, resnet: Path, tmp_path: Path) -> None:
        paths = write_images(tmp_path / "a", 2)
        encoder = make_encoder(resnet, "image", tmp_path)
        values: list[Any] = [paths, paths[::-1], list(paths)]
        clip = type(encoder.kind)("input", {**encoder.kind.config.model_dump(), "frames": 2})
        encoder = encoder.without_views(clip)
        features = features_of(split_of(encoder, values, tmp_path))
        assert encoder.encoded == 2
        np.testing.assert_allclose(features[0], features[1], atol=1e-5)
        np.testing.assert_array_equal(features[0], features[2])
        assert features[0][0] == pytest.approx(alone(encoder, paths), abs=1e-5)


class TestFeatures:
    @pytest.mark.parametrize("model", ["bert", "clip", "siglip"])
    def test_features_of_a_text_do_not_depend_on_its_batch(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path, model: str
    ) -> None:
        encoder = make_encoder(pretrained_folder("text", model), "text", tmp_path)
        features = features_of(split_of(encoder, texts(70), tmp_path))
        for number in (0, 7, 40, 69):
            expected = alone(encoder, texts(70)[number])
            np.testing.assert_allclose(features[number, 0], expected, atol=1e-5)

    @pytest.mark.parametrize("model", ["resnet", "vit"])
    def test_features_of_an_image_do_not_depend_on_its_batch(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path, model: str
    ) -> None:
        paths = write_images(tmp_path / "a", 9)
        encoder = make_encoder(pretrained_folder("image", model), "image", tmp_path)
        features = features_of(split_of(encoder, paths, tmp_path))
        for path, found in zip(paths, features, strict=True):
            np.testing.assert_allclose(found[0], alone(encoder, path), atol=1e-5)

    @pytest.mark.parametrize("model", ["whisper", "wav2vec2", "wavlm"])
    def test_features_of_a_recording_do_not_depend_on_its_batch(
        self, pretrained_folder: PretrainedFolder, tmp_path: Path, model: str
    ) -> None:
        paths = write_recordings(tmp_path)
        encoder = make_encoder(pretrained_folder("audio", model), "audio", tmp_path)
        features = features_of(split_of(encoder, paths, tmp_path))
        for path, found in zip(paths, features, strict=True):
            np.testing.assert_allclose(found[0], alone(encoder, path), atol=1e-5)


class TestStop:
    @pytest.mark.parametrize("batches", [0, 1, 3])
    def test_stopped_encoding_continues_where_it_stopped(
        self, bert: Path, tmp_path: Path, batches: int
    ) -> None:
        values, cache = texts(150), tmp_path / "cache"
        stopped = make_encoder(bert, "text", cache)
        stopped.stop_after = batches
        with pytest.raises(InterruptedRunError, match=r"run the same command again to continue"):
            split_of(stopped, values, cache)
        assert stopped.encoded == 32 * batches
        assert not list(tmp_path.rglob("train-*"))
        assert not list(tmp_path.rglob(".*"))

        second = make_encoder(bert, "text", cache)
        split = split_of(second, values, cache)
        assert second.encoded == 150 - stopped.encoded
        whole = make_encoder(bert, "text", tmp_path / "other")
        undisturbed = split_of(whole, values, tmp_path / "other")
        np.testing.assert_allclose(features_of(split), features_of(undisturbed), atol=1e-5)
        assert split.labels.tolist() == undisturbed.labels.tolist()
        assert split.sha256 == undisturbed.sha256

    def test_digest_of_a_split_follows_the_content_of_its_values(
        self, bert: Path, tmp_path: Path
    ) -> None:
        values = texts(6)
        encoder = make_encoder(bert, "text", tmp_path)
        changed = [[*values[:5], "red"], [*values[:5], None], values[::-1]]
        digests = {split_of(encoder, one, tmp_path).sha256 for one in [values, *changed]}
        assert len(digests) == 4
        other = make_encoder(bert, "text", tmp_path, identity="1")
        assert split_of(other, values, tmp_path, settings="1").sha256 not in digests


class TestUnreadable:
    def test_unreadable_and_absent_cells_have_no_features(
        self, resnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = write_images(tmp_path / "a", 3)
        paths[1].write_bytes(b"no image")
        values = [paths[0], paths[1], None, tmp_path / "missing.png", paths[2]]
        encoder = make_encoder(resnet, "image", tmp_path)
        for _ in range(2):
            split = split_of(encoder, values, tmp_path)
            assert split.rows.tolist() == [0, 4]
            assert encoder.encoded == 2
            line = "unreadable cells that count as absent: 2; the first is in row 1:"
            assert line in capsys.readouterr().err

    def test_split_without_a_readable_cell_is_rejected(self, bert: Path, tmp_path: Path) -> None:
        encoder = make_encoder(bert, "text", tmp_path / "cache")
        with pytest.raises(ManifestError, match="no row of the train split can be read"):
            split_of(encoder, [" ", b"\xff"], tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
