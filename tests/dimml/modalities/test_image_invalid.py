from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml.errors import InputError
from dimml.modalities import Image, Limits

GREY = np.full((8, 8), 100, np.uint8)


def image(limits: Limits | None = None, **config: Any) -> Image:
    return Image("view", {"size": (8, 8), **config}, limits=limits)


def encode(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def decode_error(kind: Image, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == "view"
    return caught.value


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that declares a size and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = b"IEND"
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (chunk, b"IDAT" + zlib.compress(b""), end)
    )


FRAMES = [PIL.Image.new("L", (8, 8), level) for level in (1, 50, 99, 150)]
ANIMATION = encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])
PNG = encode(PIL.Image.effect_noise((64, 64), 50))
JPEG = encode(PIL.Image.effect_noise((64, 64), 50), "JPEG")
BROKEN = {
    "empty file": (b"", "unreadable", "empty (0 bytes)"),
    "text": (b"hello" * 100, "unsupported_type", "PNG, JPEG, WEBP"),
    "SVG": (b"<svg></svg>", "unsupported_type", "PNG, JPEG, WEBP"),
    "unsupported format": (encode(PIL.Image.new("L", (8, 8)), "ICO"), "unsupported_type", "PNG"),
    "truncated PNG": (PNG[: len(PNG) // 2], "unreadable", "cannot decode"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "unreadable", "cannot decode"),
    "damaged PNG": (PNG[:60] + bytes(40) + PNG[100:], "unreadable", "cannot decode"),
    "60,000 x 60,000": (png_header(60_000, 60_000), "too_large", "limit of 40,000,000 pixels"),
    "8,000 x 8,000": (png_header(8_000, 8_000), "too_large", "8000 x 8000 pixels"),
    "large array": (np.zeros((8_000, 8_000), np.uint8), "too_large", "40,000,000 pixels"),
    "float array": (np.zeros((8, 8)), "unreadable", "must be uint8"),
    "empty array": (np.zeros((0, 8), np.uint8), "unreadable", "not empty"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "unreadable", "[height, width, 3 or 4]"),
    "list": ([GREY, GREY], "unreadable", "expected one image, got a list of 2"),
    "missing file": (Path("no/such.png"), "unreadable", "no such file"),
    "number": (3.5, "unreadable", "got float"),
}


@pytest.mark.parametrize(("value", "code", "message"), BROKEN.values(), ids=BROKEN)
def test_invalid_image_is_rejected(value: Any, code: str, message: str) -> None:
    error = decode_error(image(), value)
    assert error.code == code
    assert message in error.message


@pytest.mark.parametrize("value", [[], [None], [GREY, None]])
def test_list_with_an_empty_frame_is_rejected(value: list[Any]) -> None:
    assert decode_error(image(frames=2), value).code == "unreadable"


@pytest.mark.parametrize("value", [[GREY] * 4, ANIMATION])
def test_too_many_frames_are_rejected(value: Any) -> None:
    error = decode_error(image(Limits(frames=3), frames=2), value)
    assert (error.code, error.message) == ("too_large", "4 frames: over the limit of 3")


def test_decoding_does_not_change_warning_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    # The filters are global to the process, and decoding runs in threads.
    during: list[Any] = []
    monkeypatch.setattr(
        PIL.Image,
        "open",
        lambda *_, **__: during.append(warnings.filters[:]) or PIL.Image.fromarray(GREY),
    )
    before = warnings.filters[:]
    image().decode(PNG)
    assert during == [before]


def test_pillow_warnings_are_not_printed() -> None:
    code = (
        "import sys, dimml.modalities as m, dimml.errors as e\n"
        "try: m.Image('view', {}).decode(sys.stdin.buffer)\n"
        "except e.InputError as error: print(error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        input=png_header(10_000, 10_000),
        capture_output=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (b"too_large", b"")


NINE = encode(FRAMES[0], "GIF", save_all=True, append_images=[*FRAMES[1:], *FRAMES, FRAMES[0]])


@pytest.mark.parametrize("value", [[GREY] * 9, NINE], ids=["list", "animation"])
def test_frames_of_a_clip_have_a_common_limit(value: Any) -> None:
    error = decode_error(image(Limits(pixels=64), frames=9), value)
    assert (error.code, "512 pixels in total" in error.message) == ("too_large", True)
    assert len(image(Limits(pixels=64), frames=8).decode([GREY] * 8)) == 8
