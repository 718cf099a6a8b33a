"""Files that appear whole or not at all, and folders that do not stay empty."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

import filelock

from dimml.errors import UsageError

LOCK = ".lock"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary sibling file that takes the name `path` when the block succeeds.

    A reader sees the old content or the new, never a part; whatever fails, nothing is left behind.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(
    path: Path, replaceable: str, is_replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """A temporary sibling folder that takes the name `path` when the block succeeds.

    A replaceable folder at `path` is replaced; whatever fails, `path` is either as it was or
    complete.

    Args:
        path: the folder.
        replaceable: what may be replaced, such as "a bundle".
        is_replaceable: whether a folder that is not empty may be.

    Raises:
        UsageError: `path` exists and is neither empty nor replaceable.
    """
    # A link keeps pointing to the folder: what it points to is replaced.
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file; name a folder")
    if path.exists() and any(path.iterdir()) and not is_replaceable(path):
        raise UsageError(
            f"{path} exists and is not {replaceable}: remove it or name another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            _replace(path, temporary)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a whole file, see `new_file`."""
    with new_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Makes a folder with its parents; what of them is still empty after the block goes again."""
    made = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        # One that is not empty stays, and its parents.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


@contextmanager
def locked_folder(folder: Path, doing: str, instead: str) -> Iterator[None]:
    """The folder is there for the block and nobody else's; made and left empty, it goes again.

    Args:
        folder: which.
        doing: what is done in it, such as "training into".
        instead: what to name to get another.

    Raises:
        UsageError: it is a file, or another process has it.
    """
    if file := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise UsageError(f"{file} is a file, where a folder is needed: name {instead}")
    lock = filelock.FileLock(folder / LOCK)
    with made_folder(folder):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise UsageError(f"another process is {doing} {folder}") from error
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
            lock.release()


def _replace(path: Path, new: Path) -> None:
    """Puts the folder `new` in the place of the folder `path`."""
    retired = new.with_name(new.name + ".old")
    path.rename(retired)
    try:
        new.rename(path)
    except OSError:
        retired.rename(path)
        raise
    shutil.rmtree(retired)
