"""Clips from raw files to predictions: pictures and sound of one column, and optical flow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml import Predictor
from dimml.bundle import Bundle
from dimml.table import read_rows
from tests.dimml.modalities.encoded import encode_video
from train.data.prepare import prepare
from train.init import write_recipe
from train.recipe import Recipe, load_recipe

SIZE = [16, 16]


def write_clips(folder: Path) -> Path:
    """Write clips of two lengths; some have no sound, and two cannot be read."""
    contents = {
        "long.mp4": encode_video(sound=True),
        "short.flv": encode_video("FLV", frames=20, sound=True),
        "silent.mp4": encode_video(frames=30),
        "broken.mp4": encode_video()[:100],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for number, side in np.ndindex(4, 2):
        pixels = np.full((16, 16), 40 * number + 20 * side, np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{'uv'[side]}{number}.jpg")
    flow = [f"{side}{number}.jpg" for number in range(4) for side in "uv"]
    rows = []
    for split, count in {"train": 16, "validation": 8, "test": 8}.items():
        for number in range(count):
            clip = list(contents)[number % 4]
            row = {"split": split, "label": "ab"[number % 2], "clip": clip}
            rows.append(row | ({"motion": flow} if number % 5 else {}))
    table = folder / "clips.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def recipe(table: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "clips",
            "data": str(table),
            "feature_dim": 8,
            "modalities": {
                "pictures": {
                    "kind": "image",
                    "column": "clip",
                    "preprocessing": {"size": SIZE, "frames": 2},
                },
                "sound": {"kind": "audio", "column": "clip"},
                "motion": {"kind": "flow", "preprocessing": {"size": SIZE, "frames": 3}},
            },
            "training": {"epochs": 1, "warm_up": 0, "batch_size": 8, "logger": "none"},
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_silent_clips_are_absent_and_broken_clips_are_reported(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = prepare(recipe(table), tmp_path).splits["train"]
    assert train.modalities == ("pictures", "sound", "motion")
    assert train.present[:4].tolist() == [
        [True, True, False],
        [True, True, True],
        [True, False, True],
        [False, False, True],
    ]
    assert len(train.problems) == 8
    assert all("cannot decode" in problem for problem in train.problems)
    assert "unreadable cells that count as absent: 8" in capsys.readouterr().err
    assert train[0]["pictures"]["pixels"].shape == (2, 3, 16, 16)
    assert train[1]["motion"]["flow"].shape == (3, 2, 16, 16)


@pytest.mark.parametrize("sound", [True, False])
def test_videos_give_their_pictures_and_their_sound(tmp_path: Path, sound: bool) -> None:
    (tmp_path / "v.MP4").write_bytes(encode_video(sound=sound))
    rows = [f"v.MP4,{'ab'[n % 2]}" for n in range(20)]
    table, path = tmp_path / "t.csv", tmp_path / "t.yaml"
    table.write_text("\n".join(["My Clip,label", *rows]) + "\n")
    write_recipe(table, path, None, overwrite=False)
    modalities = load_recipe(path).modalities
    assert {m.column for m in modalities.values()} == {"My Clip"}
    if not sound:
        assert modalities["my_clip"].preprocessing["frames"] == 8
        return
    assert {name: m.kind for name, m in modalities.items()} == {"image": "image", "audio": "audio"}
    assert modalities["image"].preprocessing["frames"] == 8
    assert modalities["audio"].preprocessing["seconds"] == pytest.approx(2, abs=0.2)


def test_check_counts_silent_clips_as_empty(table: Path, tmp_path: Path, dimml: Any) -> None:
    path = tmp_path / "clips.yaml"
    path.write_text(recipe(table).model_dump_json(exclude_unset=True))
    code, output, _ = dimml("check", path, "--json")
    assert code == 0
    assert "no sound track" not in output


def test_clips_are_trained_exported_and_answered_alike(
    table: Path, tmp_path: Path, dimml: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clips.yaml"
    path.write_text(recipe(table).model_dump_json(exclude_unset=True))
    assert dimml("train", path, "--out", "run")[0] == 0
    assert dimml("export", "run", "bundle")[0] == 0
    assert Bundle.load("bundle").shared_columns == {"clip": ("pictures", "sound")}
    code, output, _ = dimml("evaluate", "bundle", table, "--json")
    assert code == 0
    subsets = json.loads(output)["subsets"]
    assert len(subsets) == 7
    assert (subsets["pictures"]["samples"], subsets["sound"]["samples"]) == (6, 4)
    # Two broken clips, each for both modalities; a silent one is no problem.
    assert json.loads(output)["unreadable"] == 4
    predictor = Predictor.load("bundle", "cpu")
    answers = predictor.predict_many([{"clip": str(table.parent / "long.mp4")}] * 2)
    assert_present(answers, ["pictures", "sound"])
    rows = list(read_rows(recipe(table).source, "test"))
    assert_present(predictor.predict_many([rows[1].sample]), ["pictures", "sound", "motion"])


def assert_present(answers: Sequence[Any], names: list[str]) -> None:
    for answer in answers:
        assert [name for name, one in answer.modalities.items() if one.present] == names
