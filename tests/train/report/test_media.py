"""Inputs as a page shows them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile

from dimml.modalities import Audio, Image, Kind, Text
from dimml.samples import AudioArray
from tests.conftest import tokenizer_json
from train.report.media import SHOWN_CHARACTERS, SHOWN_FRAMES, THUMBNAIL_PIXELS, show_input

TEXT = Text("note", {}, {"tokenizer.json": tokenizer_json()})


def content(url: str, media_type: str) -> io.BytesIO:
    head, _, data = url.partition(",")
    assert head == f"data:{media_type};base64"
    return io.BytesIO(base64.b64decode(data, validate=True))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_large_picture_becomes_a_thumbnail() -> None:
    [url] = show_input(noise(600, 1200), Image("photo", {}))["images"]
    picture = PIL.Image.open(content(url, "image/jpeg"))
    assert picture.size == (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS // 2)


def test_small_picture_keeps_its_pixels() -> None:
    pixels = noise(8, 8)
    [url] = show_input(pixels, Image("photo", {}))["images"]
    np.testing.assert_array_equal(PIL.Image.open(content(url, "image/png")), pixels)


def test_long_clip_shows_some_of_its_frames() -> None:
    shown = show_input([noise(8, 8)] * 9, Image("clip", {"frames": 9}))
    assert len(shown["images"]) == SHOWN_FRAMES
    assert shown["note"] == "4 of 9 frames"


def test_long_recording_is_cut_to_its_middle_and_resampled() -> None:
    samples = np.concatenate([np.zeros(48_000), np.full(3 * 48_000, 0.5), np.zeros(48_000)])
    kind = Audio("call", {"sample_rate": 48_000})
    shown = show_input(AudioArray(samples.astype(np.float32), 48_000), kind)
    played, rate = soundfile.read(content(shown["audio"], "audio/wav"))
    assert (rate, len(played)) == (16_000, 48_000)
    assert np.median(played) == pytest.approx(0.5, abs=0.01)
    assert shown["note"] == "the middle 3 s of 5.0 s"


def test_loud_recording_is_clipped() -> None:
    shown = show_input(AudioArray(np.full(800, 3.0), 8000), Audio("call", {"sample_rate": 8000}))
    played, _ = soundfile.read(content(shown["audio"], "audio/wav"))
    assert played.min() == pytest.approx(1, abs=1e-3)


def test_long_text_is_cut() -> None:
    shown = show_input("é" * 10_000, TEXT)
    assert shown["text"] == "é" * SHOWN_CHARACTERS + "…"
    assert shown["note"] == f"the first {SHOWN_CHARACTERS} characters"


def test_text_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("seven")
    assert show_input(tmp_path / "note.txt", TEXT) == {"text": "seven", "note": ""}


@pytest.mark.parametrize("kind", [Image("x", {}), Audio("x", {})])
def test_unreadable_value_says_why(kind: Kind) -> None:
    [(key, note)] = show_input(b"junk", kind).items()
    assert key == "note"
    assert note.startswith("cannot be read: ")


def test_empty_cell_is_absent() -> None:
    assert show_input(None, TEXT) == {"note": "absent"}
