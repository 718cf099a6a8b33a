"""ModelNet40 from its 12-view renders: samples, splits and broken files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dimml.errors import UsageError
from dimml.table import TableSource, read_rows
from tests.conftest import Dimml
from tests.train.datasets.trees import cut, write_modelnet40
from train.datasets import modelnet40

Rows = dict[str, dict[str, str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_modelnet40(tmp_path / "root")


def write_rows(root: Path, seed: int = 0, name: str = "out") -> Rows:
    manifest = modelnet40.write(root, root.parent / name, seed=seed)
    return {row["id"]: row for row in pq.read_table(manifest).to_pylist()}


def render(root: Path, model: str, view: int, split: str = "train") -> Path:
    return root / model.rpartition("_")[0] / split / f"{model}.obj.shaded_v{view:03d}.png"


def test_sample_is_view_1_and_view_7_of_a_model(root: Path) -> None:
    row = write_rows(root)["night_stand_0003"]
    assert row["label"] == "night_stand"
    for side, view in (("front", 1), ("rear", 7)):
        kept = root.parent / "out" / row[side]
        assert kept.read_bytes() == render(root, "night_stand_0003", view).read_bytes()


def test_files_take_no_extra_space(root: Path) -> None:
    row = write_rows(root)["bathtub_0001"]
    assert os.path.samefile(root.parent / "out" / row["front"], render(root, "bathtub_0001", 1))


def test_files_are_copied_where_links_fail(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    kept = root.parent / "out" / write_rows(root)["bathtub_0001"]["front"]
    assert kept.read_bytes() == render(root, "bathtub_0001", 1).read_bytes()
    assert not os.path.samefile(kept, render(root, "bathtub_0001", 1))


def test_symbolic_link_is_kept_as_a_file(root: Path) -> None:
    path = render(root, "bathtub_0001", 1)
    path.symlink_to(path.rename(root / "elsewhere.png"))
    kept = root.parent / "out" / write_rows(root)["bathtub_0001"]["front"]
    assert kept.is_file()
    assert not kept.is_symlink()


def test_manifest_is_read_after_the_root_is_gone_and_the_folder_is_moved(root: Path) -> None:
    write_rows(root)
    moved = (root.parent / "out").rename(root.parent / "moved")
    root.rename(root.with_name("gone"))
    kinds = {"front": "image", "rear": "image"}
    rows = list(read_rows(TableSource(moved / "manifest.parquet", kinds)))
    assert len(rows) == 36
    assert all(path.is_file() for row in rows for path in row.sample.values())


def test_test_split_is_the_published_one_and_each_class_validates(root: Path) -> None:
    rows = write_rows(root)
    assert Counter((row["label"], row["split"]) for row in rows.values()) == {
        (label, split): count
        for label in ("airplane", "bathtub", "night_stand")
        for split, count in (("train", 9), ("validation", 1), ("test", 2))
    }
    assert {name for name, row in rows.items() if row["split"] == "test"} == {
        f"{label}_{number:04d}"
        for label in ("airplane", "bathtub", "night_stand")
        for number in (11, 12)
    }


def test_seed_and_names_alone_determine_the_splits(root: Path) -> None:
    def splits(seed: int, name: str) -> dict[str, str]:
        return {model: row["split"] for model, row in write_rows(root, seed, name).items()}

    first, other = splits(0, "a"), splits(1, "b")
    cut(render(root, "airplane_0004", 1), 50)
    assert splits(0, "c") == first != other


def test_damaged_and_missing_pictures_leave_their_cells_empty(root: Path, dimml: Dimml) -> None:
    cut(render(root, "airplane_0001", 1), 200)
    render(root, "bathtub_0002", 7).unlink()
    for view in (1, 7):
        render(root, "night_stand_0011", view, "test").write_bytes(b"")
    code, printed, said = dimml("data", "modelnet40", root, root.parent / "out")
    assert code == 0
    rows = {row["id"]: row for row in pq.read_table(printed.strip()).to_pylist()}
    assert rows["airplane_0001"]["front"] is None
    assert rows["airplane_0001"]["rear"] == "rear/airplane_0001.png"
    assert rows["bathtub_0002"]["rear"] is None
    assert "night_stand_0011" not in rows
    assert "modelnet40: 35 of the 12,311 published models: 27 train, 3 validation, 5 test" in said
    assert "4 files are missing or damaged, and their cells are empty" in said
    assert f"{render(root, 'airplane_0001', 1)}: cannot decode the image" in said
    assert f"{render(root, 'bathtub_0002', 7)}: the file is missing" in said
    assert "1 models have no readable file and are left out" in said


def test_many_problems_are_counted_and_the_first_are_shown(root: Path, dimml: Dimml) -> None:
    for number in range(1, 9):
        cut(render(root, f"airplane_{number:04d}", 1), 0)
    _, _, said = dimml("data", "modelnet40", root, root.parent / "out")
    assert "8 files are missing or damaged" in said
    assert said.count("the file is empty (0 bytes)") == 5
    assert "and 3 more" in said


def test_wrong_layout_is_an_error_that_names_the_right_one(root: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no renders .*airplane_0001.obj.shaded_v001.png"):
        modelnet40.write(root / "airplane", root.parent / "out")
    with pytest.raises(UsageError, match="nowhere is not a folder; ROOT is the folder that holds"):
        modelnet40.write(root / "nowhere", root.parent / "out")
    assert not (root.parent / "out").exists()


def test_model_in_two_splits_is_an_error(root: Path) -> None:
    picture = render(root, "airplane_0001", 1)
    picture.rename(render(root, "airplane_0001", 1, "test"))
    with pytest.raises(UsageError, match="airplane_0001 in airplane/test and in airplane/train"):
        modelnet40.write(root, root.parent / "out")


def test_nothing_readable_is_an_error_and_leaves_no_folder(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UsageError, match=r"none of the 36 models .* pointer of Git LFS; run `git"):
        modelnet40.write(root, root.parent / "out")
    assert [path.name for path in root.parent.iterdir()] == ["root"]


def test_interrupted_run_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.datasets.published.write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        modelnet40.write(root, root.parent / "out")
    assert [path.name for path in root.parent.iterdir()] == ["root"]
