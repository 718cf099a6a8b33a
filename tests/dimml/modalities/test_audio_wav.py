"""16-bit PCM WAV files, which are decoded without libsndfile, give the samples of libsndfile."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from dimml.errors import InputError
from dimml.modalities import Audio, Limits

RATE = 16_000
KIND = Audio("audio", {"sample_rate": RATE})


def wav(channels: int = 1, samples: int = 1_000, subtype: str = "PCM_16") -> bytes:
    noise = np.random.default_rng(0).uniform(-1, 1, (samples, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format="WAV", subtype=subtype)
    return file.getvalue()


def with_chunk(name: bytes, content: bytes, data: bytes) -> bytes:
    """Return the WAV with an additional first chunk."""
    chunk = name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + b"WAVE" + chunk + data[12:]


CASES = {
    "mono": wav(),
    "stereo": wav(2),
    "64 channels": wav(64, 70),
    "one sample": wav(samples=1),
    "longer than one block": wav(2, 70_000),
    "leading chunk of odd size": with_chunk(b"LIST", b"abc", wav()),
    "leading chunk with the id of samples": with_chunk(b"junk", b"data\xff\xff\0\0", wav()),
    "trailing bytes": wav() + b"trailing",
    "8 bit": wav(subtype="PCM_U8"),
    "24 bit": wav(subtype="PCM_24"),
    "float": wav(2, subtype="FLOAT"),
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_wav_samples_equal_libsndfile(data: bytes) -> None:
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(KIND.decode(data).samples, expected.mean(axis=1))


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(22, "<H", 0), (22, "<H", 65_535), (24, "<I", 0), (32, "<H", 0), (32, "<H", 7)],
    ids=["no channels", "65,535 channels", "0 Hz", "0 bytes per frame", "7 bytes per frame"],
)
def test_inconsistent_header_is_treated_as_by_libsndfile(
    offset: int, layout: str, value: int
) -> None:
    field = struct.pack(layout, value)
    data = wav()[:offset] + field + wav()[offset + len(field) :]
    try:
        expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.SoundFileError:
        with pytest.raises(InputError) as caught:
            KIND.decode(data)
        assert caught.value.code in ("unreadable", "unsupported_type")
    else:
        np.testing.assert_array_equal(KIND.decode(data).samples, expected.mean(axis=1))


def test_wav_without_samples_is_rejected() -> None:
    with pytest.raises(InputError, match="no samples"):
        KIND.decode(wav(samples=0))


def test_limit_of_seconds_applies_to_wav() -> None:
    kind = Audio("audio", {"sample_rate": RATE}, limits=Limits(seconds=0.05))
    with pytest.raises(InputError, match=r"over the limit of 0\.05 s"):
        kind.decode(wav())
