"""Which tables an argument stands for."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from dimml.errors import UsageError
from dimml.table import SUFFIXES
from serving.offline.remote import is_url, open_path


def find_tables(
    given: str, schemes: Sequence[str], leave_out: Sequence[Path] = ()
) -> tuple[str, ...]:
    """The tables that a path, a folder, a pattern or a URL stands for, in the order of their names.

    Args:
        given: which.
        schemes: URL schemes that may be read.
        leave_out: files and folders that a folder or a pattern does not stand for.

    Raises:
        UsageError: there are none, or the URL's scheme is not allowed.
    """
    if is_url(given):
        open_path(given, schemes)
        return (given,)
    # A job may be taken up from another folder, and its processes may run in another.
    given = os.path.abspath(given)
    if Path(given).is_dir():
        root = Path(given)
        paths = [p for p in root.rglob("*") if not _is_hidden(p, root)]
        what = f"the folder {given} holds no table"
    elif Path(given).exists() or not glob.has_magic(given):
        return (given,)
    else:
        paths = [Path(p) for p in glob.glob(given, recursive=True)]
        what = f"no table matches {given}"
    not_these = {path.resolve() for path in leave_out}
    found = sorted(
        str(path)
        for path in paths
        if path.is_file()
        and path.suffix.lower() in SUFFIXES
        and not not_these & {path.resolve(), *path.resolve().parents}
    )
    if not found:
        raise UsageError(f"{what} ({', '.join(SUFFIXES)})")
    return tuple(found)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(name.startswith((".", "_")) for name in path.relative_to(root).parts)
