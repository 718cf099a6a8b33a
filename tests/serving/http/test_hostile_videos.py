"""Odd and hostile videos get the responses that docs/inputs.md lists."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from starlette.testclient import TestClient

from tests.dimml.modalities.encoded import VIDEOS, encode_container, encode_video
from tests.serving.media import PNG, WAV


def animation() -> bytes:
    file = io.BytesIO()
    frames = [PIL.Image.new("L", (32, 32), value) for value in (0, 120, 240)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def halves(name: str) -> bytes:
    data = encode_video(name)
    return data[: len(data) // 2]


CASES: dict[str, Callable[[], bytes]] = {
    **{name: lambda name=name: encode_video(name, frames=10, sound=True) for name in VIDEOS},
    "video without sound": encode_video,
    "M4A as a clip": lambda: encode_container("M4A"),
    "WAV as a clip": lambda: WAV,
    "animated GIF with a sound modality": animation,
    "PNG with a sound modality": lambda: PNG,
    "portrait of a phone": lambda: encode_video(rotation=90),
    "video of one picture": lambda: encode_video(frames=1),
    "Matroska cut in half": lambda: halves("Matroska"),
    "MP4 without its index": lambda: halves("MP4"),
    "FLV without a track": lambda: b"FLV\x01\x05\0\0\0\x09\0\0\0\0",
    "video longer than the limit": lambda: encode_video(frames=55),
    "video of too many pixels": lambda: encode_video(frames=1, size=(320, 240)),
    "playlist that names a file": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
}
LIMITS = {"max_seconds": 2.1, "max_pixels": 70_000}


@pytest.fixture(scope="module")
def client(video_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(video_bundle, **LIMITS) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_video_has_its_documented_response(
    client: TestClient, documented_responses: Any, name: str
) -> None:
    response = client.post("/predict", files={"clip": ("file", CASES[name]())})
    code = response.json().get("error", {}).get("code")
    assert (response.status_code, code) == documented_responses("Videos")[name], response.text


def test_every_documented_video_is_tested(documented_responses: Any) -> None:
    assert set(documented_responses("Videos")) == set(CASES)
