"""Find and open tables and files, local ones or those behind URLs that the user allows."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dimml.errors import UsageError
from dimml.table import find

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_INSTALL = "pip install -e '.[remote]', and the package of that storage, such as s3fs or gcsfs"
_END_BYTES = 65_536


def find_tables(
    argument: str, schemes: Sequence[str], leave_out: Sequence[Path] = ()
) -> tuple[str, ...]:
    """Return the tables that a path, a folder, a pattern or a URL names, sorted by name.

    Args:
        argument: The path, folder, pattern or URL.
        schemes: URL schemes that may be read.
        leave_out: Files and folders that are not input, though a folder or pattern covers them.

    Raises:
        UsageError: If there is no table, or the URL's scheme is not allowed.
    """
    if is_url(argument):
        open_path(argument, schemes)
        return (argument,)
    # Paths are absolute, as a job may be resumed, and its processes may run, in another folder.
    return tuple(map(str, find.find_tables(Path(os.path.abspath(argument)), leave_out)))


def is_url(text: str) -> bool:
    """Return whether a text begins with a scheme, as `s3://bucket/key` does."""
    return bool(_URL.match(text))


def open_path(table: str, schemes: Sequence[str]) -> Any:
    """Return a `Path`, or for a URL an object with the interface of `Path`.

    Raises:
        UsageError: If the scheme is not allowed, or the package that reads it is not installed.
    """
    url = _URL.match(table)
    if url is None:
        return Path(table)
    if url[1].lower() not in schemes:
        raise UsageError(f"{table}: {_refusal(url[1], schemes)}")
    try:
        from upath import UPath

        path = UPath(table)
        path.fs  # noqa: B018 (imports the package that reads the scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{table}: {error}; {_INSTALL}") from error
    return path


def table_checksum(table: str, schemes: Sequence[str]) -> str:
    """Return the size of a table and a checksum of its two ends.

    This tells two tables apart without reading either of them through.

    Raises:
        UsageError: If the scheme is not allowed, or the table cannot be read.
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
    """The file behind a cell that holds a URL; it is read when the sample is decoded."""

    url: str
    schemes: tuple[str, ...]

    def read(self, size: int = -1) -> bytes:
        """Return the content of the file, up to `size` bytes.

        Raises:
            OSError: If the file cannot be read, or its scheme is not allowed.
        """
        scheme = self.url.partition("://")[0].lower()
        if scheme not in self.schemes:
            raise OSError(_refusal(scheme, self.schemes))
        try:
            import fsspec

            with fsspec.open(self.url, "rb") as file:
                content: bytes = file.read(size)
                return content
        except ImportError as error:
            raise OSError(f"{error}; {_INSTALL}") from error
        except Exception as error:
            # Each file system raises errors of its own.
            raise OSError(f"{self.url}: {error or type(error).__name__}") from error
