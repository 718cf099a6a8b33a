"""Atomic replacement of files and folders, and folders that are locked or temporary."""

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
    """Yield a temporary file beside `path` and rename it to `path` if the block succeeds.

    A reader sees the old content or the new content, never a part. If the block fails, the
    temporary file is removed.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # `mkstemp` lets only the owner read the file.
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a complete file or leave `path` unchanged, see `new_file`."""
    with new_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_folder(
    path: Path, replaceable: str, is_replaceable: Callable[[Path], bool]
) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` if the block succeeds.

    If the block fails, `path` is unchanged.

    Args:
        path: The folder to create or to replace.
        replaceable: Name of the folders that may be replaced, such as "a bundle".
        is_replaceable: Returns whether an existing folder that is not empty may be replaced.

    Raises:
        UsageError: If `path` is a file, or a folder that is neither empty nor replaceable.
    """
    # Resolving a symbolic link replaces its target and keeps the link.
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
            _replace_folder(path, temporary)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """Create a folder and its parents for the block, and afterwards remove those still empty."""
    created = list(takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        # `rmdir` fails on the first folder that is not empty, so its parents stay too.
        with suppress(OSError):
            for folder in created:
                folder.rmdir()


@contextmanager
def locked_folder(folder: Path, activity: str, alternative: str) -> Iterator[None]:
    """Create and lock a folder for the block, and remove the folder if it stays empty.

    Args:
        folder: The folder to lock.
        activity: What the block does, followed by the folder, such as "training into".
        alternative: How the user names another folder, such as "another with --out".

    Raises:
        UsageError: If `folder` or a parent is a file, or if another process holds the lock.
    """
    if file := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), None):
        raise UsageError(f"{file} is a file, where a folder is needed: name {alternative}")
    lock = filelock.FileLock(folder / LOCK)
    with made_folder(folder):
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout as error:
            raise UsageError(
                f"another process is {activity} {folder}: wait for it or name {alternative}"
            ) from error
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
            lock.release()


def _replace_folder(path: Path, new: Path) -> None:
    """Rename `new` to `path`, and restore the old folder if that fails."""
    old = new.with_name(new.name + ".old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
