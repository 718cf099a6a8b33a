"""AVE from its videos and lists: cut sound and frames, splits and broken files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from dimml.errors import UsageError
from tests.conftest import Dimml
from tests.dimml.modalities.encoded import brightness, encode_video
from tests.train.datasets.trees import EVENTS, cut, write_ave
from train.datasets import ave

Rows = dict[str, dict[str, Any]]
VIDEO = "-Chtrain_0"
LATER = "-Chtrain_1"
"""Its event begins after one second."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ave(tmp_path / "root")


def write_rows(root: Path) -> Rows:
    manifest = ave.write(root, root.parent / "out")
    return {row["id"]: row for row in pq.read_table(manifest).to_pylist()}


def video(root: Path, name: str = VIDEO) -> Path:
    return root / "AVE" / f"{name}.mp4"


def append(name: str, line: str) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(line + "\r\n")

    return apply


class TestSamples:
    def test_splits_and_labels_are_the_published_ones(self, root: Path) -> None:
        rows = write_rows(root)
        assert Counter((row["label"], row["split"]) for row in rows.values()) == {
            (label, split): count
            for label in EVENTS
            for split, count in (("train", 6), ("validation", 2), ("test", 2))
        }

    def test_sound_is_cut_to_the_event_at_16_khz(self, root: Path) -> None:
        rows = write_rows(root)
        for name, seconds in ((VIDEO, 2.0), (LATER, 1.0)):
            sound = soundfile.info(root.parent / "out" / rows[name]["audio"])
            assert (sound.samplerate, sound.channels, sound.subtype) == (16_000, 1, "PCM_16")
            assert sound.duration == pytest.approx(seconds, abs=0.1)

    def test_frames_are_those_shown_at_the_seconds_of_the_event(self, root: Path) -> None:
        rows = write_rows(root)
        assert [len(rows[name]["video"]) for name in (VIDEO, LATER)] == [2, 1]
        with Image.open(root.parent / "out" / rows[LATER]["video"][0]) as image:
            assert brightness(image) == pytest.approx(25, abs=1.5)


class TestLists:
    def test_video_of_two_splits_is_tested_and_not_trained_on(
        self, root: Path, dimml: Dimml
    ) -> None:
        append("testSet.txt", f"Bark&{VIDEO}&good&0&1")(root)
        _, printed, said = dimml("data", "ave", root, root.parent / "out")
        rows = {row["id"]: row for row in pq.read_table(printed.strip()).to_pylist()}
        assert len(rows) == 30
        assert (rows[VIDEO]["split"], rows[VIDEO]["label"]) == ("test", "Bark")
        assert "1 further lines name a video again, and are left out" in said

    def test_annotated_video_of_no_list_is_counted(self, root: Path, dimml: Dimml) -> None:
        append("Annotations.txt", "Bark&abcdefghijk&good&0&10")(root)
        _, _, said = dimml("data", "ave", root, root.parent / "out")
        assert "1 videos of Annotations.txt are in no split list, and are left out" in said

    def test_annotations_without_a_header_are_read(self, root: Path) -> None:
        path = root / "Annotations.txt"
        path.write_bytes(path.read_bytes().partition(b"\r\n")[2])
        assert len(write_rows(root)) == 30

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (append("valSet.txt", "Bark&x&good&1"), "valSet.txt, line 7: expected category&video"),
            (append("valSet.txt", "Bark&a/b&good&1&2"), "got 'Bark&a/b&good&1&2'"),
            (lambda root: (root / "valSet.txt").unlink(), "the file .*valSet.txt is missing; ROOT"),
            (lambda root: (root / "AVE").rename(root / "videos"), "the folder .*AVE is missing"),
            (
                lambda root: [path.write_bytes(b"\r\n") for path in root.glob("*Set.txt")],
                "the published files name no videos for the train split",
            ),
            (
                lambda root: (root / "testSet.txt").write_bytes(b"\r\n"),
                "the published files name no videos for the test split",
            ),
        ],
    )
    def test_wrong_lists_are_an_error(
        self, root: Path, damage: Callable[[Path], object], message: str
    ) -> None:
        damage(root)
        with pytest.raises(UsageError) as raised:
            ave.write(root, root.parent / "out")
        assert re.search(message, raised.value.message)
        assert not (root.parent / "out").exists()


class TestBrokenFiles:
    def test_broken_files_leave_their_cells_empty(self, root: Path, dimml: Dimml) -> None:
        video(root).write_bytes(encode_video("MP4", 50))
        cut(video(root, LATER), 900)
        video(root, "-Batrain_2").unlink()
        append("trainSet.txt", "Bark&missing_one&good&0&2")(root)
        code, printed, said = dimml("data", "ave", root, root.parent / "out")
        assert code == 0
        rows = {row["id"]: row for row in pq.read_table(printed.strip()).to_pylist()}
        assert rows[VIDEO]["audio"] is None
        assert len(rows[VIDEO]["video"]) == 2
        assert rows.keys().isdisjoint({LATER, "-Batrain_2", "missing_one"})
        assert "ave: 28 of the 4,143 published videos: 16 train, 6 validation, 6 test" in said
        assert "5 files are missing or damaged" in said
        assert f"{video(root, '-Batrain_2')}: the file is missing" in said
        assert "3 videos have no readable file and are left out" in said

    def test_event_behind_the_end_of_the_video_is_reported(self, root: Path, dimml: Dimml) -> None:
        append("trainSet.txt", "Bark&short&good&5&8")(root)
        video(root, "short").write_bytes(video(root).read_bytes())
        _, _, said = dimml("data", "ave", root, root.parent / "out")
        assert f"{video(root, 'short')}: it has no sound from 5 to 8 s" in said
        assert f"{video(root, 'short')}: it has no picture from 5 to 8 s" in said
