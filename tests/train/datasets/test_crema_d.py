"""CREMA-D from its WAV and FLV files: samples, splits, lists and broken files."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dimml.errors import UsageError
from tests.conftest import Dimml
from tests.dimml.modalities.encoded import brightness, encode_video
from tests.train.datasets.trees import ACTORS, EMOTIONS, cut, write_crema_d, write_crema_d_lists
from train.datasets import crema_d

Rows = dict[str, dict[str, Any]]
CLIP = "1001_DFA_ANG_XX"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_crema_d(tmp_path / "root")


def write_rows(root: Path, name: str = "out", **options: Any) -> Rows:
    manifest = crema_d.write(root, root.parent / name, **options)
    return {row["id"]: row for row in pq.read_table(manifest).to_pylist()}


def sound(root: Path, clip: str = CLIP) -> Path:
    return root / "AudioWAV" / f"{clip}.wav"


def video(root: Path, clip: str = CLIP) -> Path:
    return root / "VideoFlash" / f"{clip}.flv"


class TestSamples:
    def test_label_is_the_emotion_of_the_name(self, root: Path) -> None:
        rows = write_rows(root)
        assert len(rows) == 48
        assert all(row["label"] == name.split("_")[2] for name, row in rows.items())

    def test_sound_is_kept_as_it_is(self, root: Path) -> None:
        row = write_rows(root)[CLIP]
        assert os.path.samefile(root.parent / "out" / row["audio"], sound(root))

    def test_frames_are_those_shown_at_each_whole_second(self, root: Path) -> None:
        video(root).write_bytes(encode_video("FLV", 55, sound=True))
        row = write_rows(root)[CLIP]
        assert row["video"] == [f"video/{CLIP}/{number:03d}.jpg" for number in range(3)]
        for second, cell in enumerate(row["video"]):
            with Image.open(root.parent / "out" / cell) as image:
                assert image.format == "JPEG"
                assert brightness(image) == pytest.approx(25 * second, abs=1.5)

    def test_sound_with_a_shorter_level_belongs_to_its_video(self, root: Path) -> None:
        row = write_rows(root)["1003_DFA_SAD_XX"]
        assert row["audio"] == "audio/1003_DFA_SAD_XX.wav"
        assert len(row["video"]) == 2

    def test_other_files_are_ignored(self, root: Path) -> None:
        for name in ("._1001_DFA_ANG_XX", "1001_DFA_ANG", "notes", "1001_DFA_ANG_XX (1)"):
            sound(root, name).write_bytes(b"")
        assert len(write_rows(root)) == 48


class TestActorDisjointSplit:
    def test_no_actor_is_in_two_splits(self, root: Path) -> None:
        splits = defaultdict(set)
        for name, row in write_rows(root).items():
            splits[name[:4]].add(row["split"])
        assert Counter(next(iter(names)) for names in splits.values() if len(names) == 1) == {
            "train": 2,
            "validation": 1,
            "test": 1,
        }

    def test_91_actors_give_9_for_test_and_8_for_validation(self) -> None:
        clips = [f"{actor}_DFA_ANG_XX" for actor in range(1001, 1092)]
        splits = crema_d.split_actors(clips, seed=0)
        assert Counter(splits.values()) == {"train": 74, "validation": 8, "test": 9}
        assert crema_d.split_actors(reversed(clips), seed=0) == splits
        assert crema_d.split_actors(clips, seed=1) != splits

    def test_two_actors_are_too_few(self, root: Path) -> None:
        for path in root.rglob("100[34]_*"):
            path.unlink()
        with pytest.raises(UsageError, match=r"of 2 actors \(1001, 1002\), but each split needs"):
            crema_d.write(root, root.parent / "out")


class TestListedSplits:
    def test_published_lists_are_followed_and_a_tenth_of_train_validates(self, root: Path) -> None:
        lists = write_crema_d_lists(root.parent / "lists", root)
        rows = write_rows(root, split_csv=lists)
        tested = {line.split(",")[0] for line in (lists / "test.csv").read_text().split()}
        assert {name for name, row in rows.items() if row["split"] == "test"} == tested
        validation = [row["label"] for row in rows.values() if row["split"] == "validation"]
        assert Counter(validation) == dict.fromkeys(set(EMOTIONS) & set(validation), 1)
        assert len(validation) >= 5

    def test_table_of_names_and_splits_is_followed(self, root: Path, dimml: Dimml) -> None:
        table = root.parent / "splits.csv"
        actors = dict(zip(ACTORS, ("train", "train", "val", "Testing"), strict=True))
        names = sorted(path.name for path in (root / "VideoFlash").glob("*.flv"))[1:]
        lines = "".join(f"{name},{actors[name[:4]]}\r\n" for name in names)
        table.write_bytes(b"\xef\xbb\xbfname,split\r\n" + lines.encode())
        code, printed, said = dimml(
            "data", "crema_d", root, root.parent / "out", "--split-csv", table
        )
        assert code == 0
        rows = pq.read_table(printed.strip()).to_pylist()
        assert Counter(row["split"] for row in rows) == {
            "train": 23,
            "validation": 12,
            "test": 12,
        }
        assert f"1 clips are not in {table}, and are left out" in said

    def test_listed_clip_without_files_is_reported(self, root: Path, dimml: Dimml) -> None:
        lists = write_crema_d_lists(root.parent / "lists", root)
        with (lists / "test.csv").open("a") as file:
            file.write("1091_WSI_SAD_XX,SAD\r\n")
        out = root.parent / "out"
        code, _, said = dimml("data", "crema_d", root, out, "--split-csv", lists)
        assert code == 0
        assert "AudioWAV/1091_WSI_SAD_XX.wav: the file is missing" in said
        assert "1 clips have no readable file and are left out" in said

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"train.csv": f"{CLIP},ANG\n"}, "cannot read .*test.csv: No such file"),
            (
                {"train.csv": "1001_ANG,ANG\n", "test.csv": ""},
                "train.csv, line 1: expected a clip such as 1001_DFA_ANG_XX, got '1001_ANG'",
            ),
            (
                {"train.csv": f"{CLIP},ANG\n", "test.csv": f"\n{CLIP},ANG\n"},
                f"test.csv, line 2: the clip {CLIP} is listed twice",
            ),
            ({"train.csv": f"{CLIP},ANG\n", "test.csv": "\n"}, "no clip for the test split"),
        ],
    )
    def test_wrong_lists_are_an_error(
        self, root: Path, files: dict[str, str], message: str
    ) -> None:
        lists = root.parent / "lists"
        lists.mkdir()
        for name, text in files.items():
            (lists / name).write_text(text)
        with pytest.raises(UsageError, match=message):
            crema_d.write(root, root.parent / "out", split_csv=lists)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("clip,set\n", "has the columns clip, set; expected name and split, or a folder"),
            (f"name,split\n{CLIP},held-out\n", "line 2: the split 'held-out' is none of train, "),
        ],
    )
    def test_wrong_table_is_an_error(self, root: Path, text: str, message: str) -> None:
        table = root.parent / "splits.csv"
        table.write_text(text)
        with pytest.raises(UsageError, match=message):
            crema_d.write(root, root.parent / "out", split_csv=table)

    def test_missing_table_is_an_error(self, root: Path) -> None:
        with pytest.raises(UsageError, match=r"cannot read .*nowhere.csv: No such file"):
            crema_d.write(root, root.parent / "out", split_csv=root / "nowhere.csv")


class TestBrokenFiles:
    def test_broken_files_leave_their_cells_empty(self, root: Path, dimml: Dimml) -> None:
        cut(sound(root), 5_000)
        video(root, "1001_DFA_DIS_XX").write_bytes(b"")
        for path in (sound(root, "1001_DFA_FEA_XX"), video(root, "1001_DFA_FEA_XX")):
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        video(root, "1001_DFA_HAP_XX").write_bytes(np.random.default_rng(0).bytes(3_000))
        video(root, "1001_DFA_NEU_XX").unlink()
        code, printed, said = dimml("data", "crema_d", root, root.parent / "out")
        assert code == 0
        rows = {row["id"]: row for row in pq.read_table(printed.strip()).to_pylist()}
        assert rows[CLIP]["audio"] is None
        assert len(rows[CLIP]["video"]) == 2
        for emotion in ("DIS", "HAP", "NEU"):
            row = rows[f"1001_DFA_{emotion}_XX"]
            assert row["video"] is None
            assert row["audio"] is not None
        assert "1001_DFA_FEA_XX" not in rows
        assert "crema_d: 47 of the 7,442 published clips" in said
        assert "6 files are missing or damaged" in said
        assert f"{sound(root)}: cannot decode the audio (it is truncated" in said
        assert "1001_DFA_DIS_XX.flv: the file is empty (0 bytes)" in said
        assert "1001_DFA_FEA_XX.wav: it is a pointer of Git LFS; run `git lfs pull`" in said
        assert "1001_DFA_HAP_XX.flv: it is of no known format" in said

    def test_video_without_pictures_is_reported(self, root: Path, dimml: Dimml) -> None:
        video(root).write_bytes(sound(root).read_bytes())
        _, _, said = dimml("data", "crema_d", root, root.parent / "out")
        assert f"{video(root)}: it is WAV" in said


class TestLayout:
    def test_missing_folder_is_an_error_that_names_the_layout(self, root: Path) -> None:
        (root / "VideoFlash").rename(root / "Video")
        with pytest.raises(UsageError, match=r"VideoFlash is missing; ROOT is the folder that hol"):
            crema_d.write(root, root.parent / "out")

    def test_folders_without_clips_are_an_error(self, root: Path) -> None:
        for path in (*root.rglob("*.flv"), *root.rglob("*.wav")):
            path.unlink()
        with pytest.raises(UsageError, match="hold no clips; expected names such as 1001_DFA_ANG"):
            crema_d.write(root, root.parent / "out")

    def test_missing_decoder_is_an_error(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dimml.modalities.formats.is_installed", lambda package: False)
        with pytest.raises(UsageError, match=r"crema_d has videos.*pip install -e '.\[media\]'"):
            crema_d.write(root, root.parent / "out")
