"""Decoding of the values in a body: the charset of a text, and files as base64."""

from __future__ import annotations

import base64
import codecs
import encodings
import functools
import pkgutil
from encodings.aliases import aliases

from dimml.errors import InputError

MIN_UNPADDED_CHARACTERS = 32
"""A shorter value without padding is rather a path, such as `/etc/passwd`, than a file."""

_NO_CHARSETS = {
    # These decode to bytes.
    *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "uu_codec", "zlib_codec"),
    # These transform text or depend on the system, and some take quadratic time.
    *("charmap", "idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "rot_13", "undefined"),
    *("unicode_escape", "aliases"),
}
_CHARSETS = {module.name for module in pkgutil.iter_modules(encodings.__path__)} - _NO_CHARSETS


@functools.lru_cache(maxsize=256)
def find_codec(charset: str, field: str) -> str:
    """Return the name of Python's codec for a charset, UTF-8 for "".

    Python remembers every name that it is asked for, so only known names reach it.

    Args:
        charset: The `charset` of a Content-Type, in lower case.
        field: The field of the text, for the error.

    Raises:
        InputError: `unsupported_type` if the charset is unknown.
    """
    name = encodings.normalize_encoding(charset or "utf-8")
    name = aliases.get(name, name)
    if name not in _CHARSETS:
        raise InputError(
            "unsupported_type",
            f"the charset {charset[:64]!r} is unknown; send the text in UTF-8, or declare a known "
            "charset, such as ISO-8859-1",
            field,
        )
    return codecs.lookup(name).name


def decode_base64(value: str) -> bytes:
    """Decode the content of a file: base64, its URL-safe form, or a `data:` URL with either.

    Line breaks are ignored, and the padding at the end may be missing.

    Raises:
        ValueError: If the value is something else.
    """
    if value[:5].lower() == "data:":
        value = _content_of_data_url(value)
    # Many encoders, such as `base64 FILE`, insert line breaks.
    text = "".join(value.splitlines())
    if "-" in text or "_" in text:
        text = text.replace("-", "+").replace("_", "/")
    missing = -len(text) % 4
    content = base64.b64decode(text + "=" * missing, validate=True)
    if missing and len(text) < MIN_UNPADDED_CHARACTERS:
        raise ValueError("a value this short needs its padding (=)")
    return content


def _content_of_data_url(url: str) -> str:
    header, comma, content = url.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ValueError("a data: URL must be `data:TYPE;base64,CONTENT`")
    return content
