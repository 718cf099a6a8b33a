"""Find the tables that a path, a folder or a pattern names."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from dimml.errors import UsageError
from dimml.table.formats import SUFFIXES, suffix


def find_tables(path: Path, leave_out: Sequence[Path] = ()) -> list[Path]:
    """Return the tables that a path, a folder or a pattern names, sorted by name.

    Args:
        path: The table, folder or pattern. A path that does not exist is returned as it is.
        leave_out: Files and folders that are not input, though a folder or pattern covers them.

    Raises:
        UsageError: If a folder holds, or a pattern matches, no table.
    """
    if path.is_dir():
        names = {file: file.relative_to(path).parts for file in path.rglob("*")}
        files = [f for f in names if not any(name[0] in "._" for name in names[f])]
        reason = f"the folder {path} holds no table"
    elif path.exists() or not glob.has_magic(str(path)):
        return [path]
    else:
        files = [Path(file) for file in glob.glob(str(path), recursive=True)]
        reason = f"no table matches {path}"
    excluded = {file.resolve() for file in leave_out}
    tables = sorted(
        file
        for file in files
        if file.is_file()
        and suffix(file) in SUFFIXES
        and not excluded & {file.resolve(), *file.resolve().parents}
    )
    if not tables:
        raise UsageError(f"{reason} ({', '.join(SUFFIXES)})")
    return tables
