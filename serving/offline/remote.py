"""Tables and files behind URLs of schemes that the operator allows; local ones need none of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimml.errors import UsageError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_INSTALL = "pip install -e '.[remote]', and the package of that storage, such as s3fs or gcsfs"


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
