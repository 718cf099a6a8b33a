"""Tables and files behind URLs of schemes that the operator allows; local ones need none of it."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dimml.errors import UsageError
from dimml.table import SUFFIXES

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_END_BYTES = 65_536
_INSTALL = "pip install -e '.[remote]', and the package of that storage, such as s3fs or gcsfs"


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


def is_url(text: str) -> bool:
    """Whether a text names a scheme, as in `s3://bucket/key`."""
    return bool(_URL.match(text))


def parent_url(url: str) -> str:
    """The URL of the folder that holds a file."""
    return url.rpartition("/")[0]


def open_path(table: str, schemes: Sequence[str]) -> Any:
    """A `Path`, or for a URL what behaves as one.

    Raises:
        UsageError: the scheme is not allowed, or what reads it is not installed.
    """
    found = _URL.match(table)
    if found is None:
        return Path(table)
    if found[1].lower() not in schemes:
        raise UsageError(f"{table}: {_refusal(found[1], schemes)}")
    try:
        from upath import UPath

        path = UPath(table)
        path.fs  # noqa: B018 (imports what reads the scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{table}: {error}; {_INSTALL}") from error
    return path


def table_checksum(table: str, schemes: Sequence[str]) -> str:
    """Size and checksum of the ends of a table: enough to tell another one, at the price of none.

    Raises:
        UsageError: its scheme is not allowed, or it cannot be read.
    """
    path = open_path(table, schemes)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = sha256(file.read(_END_BYTES))
            if size > _END_BYTES:
                file.seek(max(_END_BYTES, size - _END_BYTES))
                digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise UsageError(f"{table} cannot be read: {error}") from error
    return f"{size} bytes, sha256 of its ends {digest.hexdigest()}"


def _refusal(scheme: str, schemes: Sequence[str]) -> str:
    allowed = f" beside {', '.join(schemes)}" if schemes else ""
    return f"the scheme {scheme} is not allowed{allowed}; --allow-scheme {scheme} allows it"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The file behind a cell that holds a URL, read when it is decoded.

    Attributes:
        url: where it is.
        schemes: those that may be read.
    """

    url: str
    schemes: tuple[str, ...]

    def read(self, size: int = -1) -> bytes:
        """Its content, up to `size` bytes.

        Raises:
            OSError: it cannot be read, or its scheme is not allowed.
        """
        found = _URL.match(self.url)
        scheme = found[1].lower() if found else ""
        if scheme not in self.schemes:
            raise OSError(_refusal(scheme, self.schemes))
        try:
            import fsspec
        except ImportError as error:
            raise OSError(f"{error}; {_INSTALL}") from error
        try:
            with fsspec.open(self.url, "rb") as file:
                content: bytes = file.read(size)
                return content
        except Exception as error:
            # Each file system raises errors of its own.
            raise OSError(f"{self.url}: {error or type(error).__name__}") from error
