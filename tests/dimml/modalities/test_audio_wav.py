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


def wav(
    channels: int = 1, samples: int = 1_000, subtype: str = "PCM_16", form: str = "WAV"
) -> bytes:
    noise = np.random.default_rng(0).uniform(-1, 1, (samples, channels))
    file = io.BytesIO()
    soundfile.write(file, noise, RATE, format=form, subtype=subtype)
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


def of_unknown_size(data: bytes, size: int, riff_size: int) -> bytes:
    """Return the WAV as a recorder streams it, which does not know the sizes."""
    start = data.index(b"data") + 4
    sizes = struct.pack("<I", riff_size), struct.pack("<I", size)
    return b"".join((data[:4], sizes[0], data[8:start], sizes[1], data[start + 4 :]))


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0x8000_0000, 0xFFFF_FF00, 0xFFFF_FFFF])
@pytest.mark.parametrize("riff_size", [0, 0xFFFF_FFFF, 2_036])
@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        *(("WAV", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT", "PCM_U8", "ALAW")),
        *(("WAVEX", subtype) for subtype in ("PCM_16", "PCM_24", "FLOAT")),
    ],
)
def test_wav_of_unknown_size_is_read_to_its_end(
    form: str, subtype: str, riff_size: int, size: int
) -> None:
    data = wav(2, 1_000, subtype, form)
    streamed = KIND.decode(of_unknown_size(data, size, riff_size))
    np.testing.assert_array_equal(streamed.samples, KIND.decode(data).samples)
    assert KIND.warnings(streamed) == KIND.warnings(KIND.decode(data))


def test_wav_of_unknown_size_is_read_whole_if_its_last_frame_is_cut() -> None:
    streamed = of_unknown_size(wav(2), 0xFFFF_FFFF, 0xFFFF_FFFF)[:-3]
    np.testing.assert_array_equal(KIND.decode(streamed).samples, KIND.decode(wav(2)).samples[:-1])


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_truncated_wav_is_rejected(form: str, subtype: str) -> None:
    data = wav(2, 1_000, subtype, form)
    with pytest.raises(InputError, match=r"truncated: its header declares [\d,]+ bytes of samples"):
        KIND.decode(data[:-10])


def test_wav_without_samples_before_another_chunk_is_rejected() -> None:
    data = wav(samples=0) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(InputError, match="no samples"):
        KIND.decode(data)


def test_limit_of_seconds_applies_to_wav_of_unknown_size() -> None:
    kind = Audio("audio", {"sample_rate": RATE}, limits=Limits(seconds=0.05))
    for subtype in ("PCM_16", "PCM_24"):
        with pytest.raises(InputError, match=r"over the limit of 0\.05 s"):
            kind.decode(of_unknown_size(wav(subtype=subtype), 0, 0))
