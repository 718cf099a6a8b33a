"""Files and folders that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dimml import files
from dimml.errors import UsageError

MARK = "mark"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """`files.new_folder` for folders that may be replaced if they hold a file named "mark"."""
    with files.new_folder(path, "a marked folder", lambda folder: (folder / MARK).exists()) as new:
        yield new


def write_and_fail(path: Path) -> None:
    path.write_text("new")
    raise KeyError


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / MARK).write_text("old")
    return folder


@pytest.mark.parametrize("existing", ["nothing", "empty", "marked"])
def test_new_folder_appears_only_when_it_is_complete(tmp_path: Path, existing: str) -> None:
    path = tmp_path / "deep" / "folder"
    if existing != "nothing":
        path.mkdir(parents=True)
    if existing == "marked":
        (path / MARK).write_text("old")
    before = sorted(path.iterdir()) if path.exists() else None
    with new_folder(path) as folder:
        (folder / MARK).write_text("new")
        assert before == (sorted(path.iterdir()) if path.exists() else None)
    assert (path / MARK).read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


def test_failed_block_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), new_folder(tmp_path / "folder") as folder:
        write_and_fail(folder / MARK)
    assert list(tmp_path.iterdir()) == []


def test_failed_block_leaves_the_old_folder_unchanged(marked: Path) -> None:
    with pytest.raises(KeyError), new_folder(marked) as folder:
        write_and_fail(folder / MARK)
    assert (marked / MARK).read_text() == "old"
    assert list(marked.parent.iterdir()) == [marked]


def test_failed_rename_restores_the_old_folder(
    marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_once(source: Path, target: Path) -> Path:
        if target == marked:
            monkeypatch.undo()
            raise OSError("no space")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="no space"), new_folder(marked) as folder:
        (folder / MARK).write_text("new")
    assert (marked / MARK).read_text() == "old"
    assert list(marked.parent.iterdir()) == [marked]


def test_link_still_points_to_the_replaced_folder(marked: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(marked)
    with new_folder(link) as folder:
        (folder / MARK).write_text("new")
    assert link.is_symlink()
    assert (marked / MARK).read_text() == "new"
    assert sorted(tmp_path.iterdir()) == [marked, link]


def test_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.write_text("x")
    with pytest.raises(UsageError, match="is a file; name a folder"), new_folder(path):
        pass
    assert path.read_text() == "x"


def test_other_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(UsageError, match="is not a marked folder"), new_folder(tmp_path):
        pass
    assert (tmp_path / "precious.txt").read_text() == "x"


def test_failed_block_leaves_the_old_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    files.write_atomic(path, "old")
    with pytest.raises(KeyError), files.new_file(path) as temporary:
        write_and_fail(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
