"""Recordings in MP3 and OGG with padding, junk or a missing end: what can be read is read."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from dimml.errors import InputError
from dimml.modalities import Audio

RATE = 16_000
KIND = Audio("sound", {"seconds": None})
NOISE = np.random.default_rng(0)


def encode(form: str, subtype: str | None = None, seconds: float = 30) -> bytes:
    time = np.arange(round(seconds * RATE)) / RATE
    samples = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.05 * NOISE.standard_normal(len(time))
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form, subtype=subtype)
    return file.getvalue()


def junk(size: int) -> bytes:
    return NOISE.integers(0, 256, size, np.uint8).tobytes()


def tag(size: int, footer: bool = False) -> bytes:
    """Return an ID3 tag, which stores its size in 7 bits of each byte."""
    head = b"ID3\4\0" + bytes([0x10 if footer else 0])
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return head + digits + b"\1" * size + (b"3DI" + bytes(7) if footer else b"")


MP3, OGG, OPUS = encode("MP3"), encode("OGG"), encode("OGG", "OPUS")
PADDED = {
    "zeros": bytes(5_000) + MP3,
    "tag": tag(500) + MP3,
    "tag and zeros": tag(500) + bytes(5_000) + MP3,
    "tag with a footer and zeros": tag(500, footer=True) + bytes(3) + MP3,
    "two tags and zeros": tag(500) + tag(70_000) + bytes(100_000) + MP3,
    "old tag at the end": MP3 + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("data", PADDED.values(), ids=PADDED)
def test_mp3_behind_tags_and_padding_is_read_whole(data: bytes) -> None:
    decoded = KIND.decode(data)
    np.testing.assert_array_equal(decoded.samples, KIND.decode(MP3).samples)
    assert KIND.warnings(decoded) == ()


@pytest.mark.parametrize("data", [tag(500) + bytes(5_000), bytes(9_000), tag(2**21)[:400]])
def test_tag_or_zeros_alone_are_rejected(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        KIND.decode(data)
    assert caught.value.code == "unsupported_type"


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (MP3[: len(MP3) // 2], 15),
        (OGG[: len(OGG) // 2], 15),
        (OPUS[: len(OPUS) // 2], 15),
        (MP3[: len(MP3) // 2] + junk(30_000) + MP3[len(MP3) // 2 :], 15),
        (MP3[: len(MP3) // 2] + bytes(30_000) + MP3[len(MP3) // 2 :], 15),
        (MP3[: len(MP3) // 9] + junk(30_000), 30 / 9),
    ],
    ids=["cut MP3", "cut OGG", "cut Opus", "junk in MP3", "zeros in MP3", "junk at MP3's end"],
)
def test_damaged_recording_is_read_up_to_the_damage_with_a_warning(
    data: bytes, seconds: float
) -> None:
    decoded = KIND.decode(data)
    read = len(decoded.samples) / RATE
    # Vorbis pages are up to a second long.
    assert read == pytest.approx(seconds, abs=1.2)
    [warning] = KIND.warnings(decoded)
    assert warning.startswith("the file is damaged (")
    assert warning.endswith(f"only the first {read:.1f} s were read")
    whole = KIND.decode(MP3).samples[: len(decoded.samples) - RATE // 4]
    if data.startswith(MP3[:100]):
        np.testing.assert_array_equal(decoded.samples[: len(whole)], whole)


@pytest.mark.parametrize("data", [OGG, OPUS, MP3], ids=["Vorbis", "Opus", "MP3"])
def test_whole_recording_has_no_warning(data: bytes) -> None:
    assert KIND.warnings(KIND.decode(data)) == ()


def test_junk_between_pages_of_an_ogg_is_skipped() -> None:
    page = OGG.index(b"OggS", len(OGG) // 2)
    decoded = KIND.decode(OGG[:page] + junk(3_000) + OGG[page:])
    assert len(decoded.samples) == pytest.approx(30 * RATE, abs=RATE)


def test_cut_flac_is_rejected() -> None:
    data = encode("FLAC", seconds=5)
    with pytest.raises(InputError) as caught:
        KIND.decode(data[: len(data) // 2])
    assert caught.value.code == "unreadable"
