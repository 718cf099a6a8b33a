"""UCF101 from published frames, flow and split lists: samples, splits and broken files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dimml.errors import UsageError
from tests.conftest import Dimml
from tests.train.datasets.trees import ACTIONS, cut, write_ucf101
from train.datasets import ucf101

Rows = dict[str, dict[str, Any]]
VIDEO = "v_Archery_g08_c01"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_ucf101(tmp_path / "root")


def write_rows(root: Path, name: str = "out", **options: int) -> Rows:
    manifest = ucf101.write(root, root.parent / name, **options)
    return {row["id"]: row for row in pq.read_table(manifest).to_pylist()}


def test_flow_is_the_middle_ten_frames_u_and_v_by_turns(root: Path) -> None:
    row = write_rows(root)[VIDEO]
    # The middle of 13 frames of flow.
    assert row["flow"] == [
        f"flow/{VIDEO}/{axis}{number:06d}.jpg" for number in range(2, 12) for axis in "uv"
    ]
    for axis, cell in zip("uv", row["flow"][:2], strict=True):
        published = root / "tvl1_flow" / axis / VIDEO / "frame000002.jpg"
        assert (root.parent / "out" / cell).read_bytes() == published.read_bytes()


def test_picture_is_the_middle_frame(root: Path) -> None:
    row = write_rows(root)[VIDEO]
    assert row["label"] == "Archery"
    published = root / "jpegs_256" / VIDEO / "frame000008.jpg"
    assert (root.parent / "out" / row["image"]).read_bytes() == published.read_bytes()


def test_folder_is_found_although_the_list_writes_another_capital(root: Path) -> None:
    row = write_rows(root)["v_HandStandPushups_g08_c01"]
    assert row["label"] == "HandstandPushups"
    assert len(row["flow"]) == 20


def test_no_group_of_a_class_is_in_two_splits(root: Path) -> None:
    splits = defaultdict(set)
    rows = write_rows(root)
    for name, row in rows.items():
        splits[row["label"], name.split("_")[2]].add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert Counter(row["split"] for row in rows.values()) == {
        "train": 18,
        "validation": 6,
        "test": 12,
    }
    assert {row["label"] for row in rows.values() if row["split"] == "validation"} == {*ACTIONS}


def test_option_chooses_the_official_split(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    (lists / "trainlist02.txt").write_bytes((lists / "testlist01.txt").read_bytes())
    (lists / "testlist02.txt").write_bytes((lists / "trainlist01.txt").read_bytes())
    first, second = write_rows(root, "a"), write_rows(root, "b", split=2)
    assert (first[VIDEO]["split"], second[VIDEO]["split"]) == ("train", "test")


def test_broken_files_leave_their_cells_empty(root: Path, dimml: Dimml) -> None:
    flow = root / "tvl1_flow"
    cut(flow / "v" / VIDEO / "frame000005.jpg", 200)
    cut(root / "jpegs_256" / VIDEO / "frame000008.jpg", 300)
    for path in sorted((flow / "u" / "v_Archery_g08_c02").glob("*.jpg"))[4:]:
        path.unlink()
    (flow / "u" / "v_Archery_g09_c01" / "frame000006.jpg").unlink()
    (root / "jpegs_256" / "v_Archery_g09_c02").rename(root / "elsewhere")
    code, printed, said = dimml("data", "ucf101", root, root.parent / "out")
    assert code == 0
    rows = {row["id"]: row for row in pq.read_table(printed.strip()).to_pylist()}
    assert VIDEO not in rows
    assert rows["v_Archery_g08_c02"]["flow"] is None
    assert rows["v_Archery_g08_c02"]["image"] is not None
    assert rows["v_Archery_g09_c01"]["flow"] is None
    assert rows["v_Archery_g09_c02"]["image"] is None
    assert "ucf101: 35 of the 13,320 published videos" in said
    assert "frame000005.jpg: cannot decode the image" in said
    assert "v_Archery_g08_c02: 4 frames of flow; 10 are needed" in said
    assert "v_Archery_g09_c01: frames are missing between 2 and 12" in said
    assert "v_Archery_g09_c02: the folder is missing" in said
    assert "1 videos have no readable file and are left out" in said
    assert not (root.parent / "out" / "flow" / VIDEO).exists()


def test_video_without_any_file_is_left_out(root: Path) -> None:
    lists = root / "ucfTrainTestlist"
    with (lists / "testlist01.txt").open("a") as file:
        file.write("Archery/v_Archery_g07_c01.avi\n")
    assert "v_Archery_g07_c01" not in write_rows(root)


def append(name: str, line: str) -> Callable[[Path], object]:
    def apply(root: Path) -> None:
        with (root / "ucfTrainTestlist" / name).open("a") as file:
            file.write(line)

    return apply


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no lists": (
        lambda root: (root / "ucfTrainTestlist").rename(root / "lists"),
        r"the file .*trainlist01.txt is missing; ROOT is the folder that holds jpegs_256/, ",
    ),
    "no flow": (
        lambda root: (root / "tvl1_flow" / "u").rename(root / "u"),
        r"the folder .*tvl1_flow/u is missing",
    ),
    "another form": (
        append("trainlist01.txt", "Archery g08\n"),
        r"trainlist01.txt, line 25: expected a class, .*, got 'Archery g08'",
    ),
    "twice": (append("testlist01.txt", f"Archery/{VIDEO}.avi\n"), f"{VIDEO} is twice in"),
    "empty": (
        lambda root: (root / "ucfTrainTestlist" / "testlist01.txt").write_bytes(b"\r\n"),
        "testlist01.txt names no video",
    ),
    "not text": (
        lambda root: (root / "ucfTrainTestlist" / "testlist01.txt").write_bytes(b"A\xff"),
        "testlist01.txt: byte 1 is not UTF-8 text",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_wrong_layout_or_list_is_an_error(root: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(root)
    with pytest.raises(UsageError) as raised:
        ucf101.write(root, root.parent / "out")
    assert re.search(message, raised.value.message)
    assert not (root.parent / "out").exists()


def test_unknown_split_is_an_error(root: Path) -> None:
    with pytest.raises(UsageError, match="UCF101 has the splits 1, 2 and 3"):
        ucf101.write(root, root.parent / "out", split=4)
