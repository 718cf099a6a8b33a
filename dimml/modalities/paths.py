"""Paths of the files that a sample names: find them, or say what is wrong with them."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from dimml.errors import shorten

_PATH_CHARACTERS = 200
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{100,}={0,2}")
_HINTS = {
    r"\bdata:[\w/+.-]*[;,]": "this is a data: URL; write its content to a file, and name the file",
    r"\bfile:/": "this is a file:// URL; write the path alone",
    r"\b[A-Za-z][A-Za-z0-9+.-]+:/": "this is a URL; only `dimml score --allow-scheme` reads URLs, "
    "elsewhere download the file",
    r"(^|/)~": "~ is not expanded; write the whole path",
    r"%[0-9A-Fa-f]{2}": "the path is percent-encoded; %20 stands for a blank, for example",
}
"""Regular expression to what is wrong with a path that contains it."""


def other_form(path: Path) -> Path:
    """Return the existing path of the same name in another normal form of Unicode, else `path`.

    macOS decomposes the names of files, where most programs compose them.
    """
    forms = (unicodedata.normalize("NFC", str(path)), unicodedata.normalize("NFD", str(path)))
    return next((Path(form) for form in forms if os.path.exists(form)), path)


def missing_file_message(path: Path) -> str:
    """Return the message for a path that is not a regular file, or that cannot be looked up."""
    name, hint = shorten(str(path), _PATH_CHARACTERS), path_hint(str(path))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return f"no such file: {name}{hint}"
    except OSError as error:
        # The path is too long, or in a folder without permission.
        return f"cannot read {shorten(str(path))}: {error.strerror}{hint}"
    return f"not a regular file: {name}{hint}"


def path_hint(path: str) -> str:
    """Return what is probably wrong with a path, empty if nothing is known."""
    for pattern, hint in _HINTS.items():
        if re.search(pattern, path):
            return f" ({hint})"
    if os.sep == "/" and "\\" in path:
        return " (the path has backslashes; separate folders with /)"
    if _BASE64.search(path):
        return (
            " (this looks like base64; write the content to a file and name the file, or keep it "
            "as bytes in a Parquet column)"
        )
    return ""
