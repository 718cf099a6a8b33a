"""Unusual and hostile recordings over HTTP: each has the response that docs/inputs.md states."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from dimml.errors import InputError
from dimml.modalities import Audio, Limits
from tests.dimml.modalities.encoded import CONTAINERS, encode_container, with_field
from tests.serving.media import patch

FIELD = "audio"
RATE = 16_000
MAX_SECONDS = 10

RIFF_SIZE, CHANNELS, SAMPLE_RATE, DATA_SIZE = 4, 22, 24, 40
"""Offsets of fields in the header of a WAV."""


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(max(1, round(seconds * rate))) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.repeat(wave[:, None], channels, axis=1)


def encode(
    container: str, samples: np.ndarray | None = None, rate: int = RATE, subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(
        file, tone() if samples is None else samples, rate, format=container, subtype=subtype
    )
    return file.getvalue()


def silence(container: str, seconds: float, rate: int = 8_000, channels: int = 1) -> bytes:
    return encode(container, np.zeros((round(seconds * rate), channels), np.float32), rate)


def wav_with_sample(value: float) -> bytes:
    samples = tone().astype(np.float32)
    samples[500] = value
    return encode("WAV", samples, subtype="FLOAT")


def flac_of_declared_samples(samples: int) -> bytes:
    """Return a FLAC whose STREAMINFO declares a number of samples, a field of 36 bits."""
    data = bytearray(encode("FLAC"))
    high, low = divmod(samples, 2**32)
    data[21] = data[21] & 0xF0 | high
    data[22:26] = struct.pack(">I", low)
    return bytes(data)


def id3_header(size: int) -> bytes:
    """Return the header of an ID3 tag, which stores the size in 7 bits of each byte."""
    return b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def mp3_with_junk() -> bytes:
    data, noise = encode("MP3", tone(8)), np.random.default_rng(0).integers(0, 256, 9_000, np.uint8)
    middle = len(data) // 2
    return data[:middle] + noise.tobytes() + data[middle:]


CASES: dict[str, Callable[[], bytes]] = {
    "WAV of 1 sample": lambda: encode("WAV", tone(0)),
    "WAV of no samples": lambda: encode("WAV", np.zeros(0)),
    "WAV of 8 channels": lambda: encode("WAV", tone(channels=8)),
    "WAV of 65 channels": lambda: encode("WAV", tone(0.1, channels=65)),
    "WAV of 64-bit floats": lambda: encode("WAV", subtype="DOUBLE"),
    "WAV of 24 bits": lambda: encode("WAV", subtype="PCM_24"),
    "WAV in A-law": lambda: encode("WAV", subtype="ALAW"),
    "FLAC": lambda: encode("FLAC"),
    "OGG Vorbis": lambda: encode("OGG"),
    "OGG Opus": lambda: encode("OGG", subtype="OPUS"),
    "MP3": lambda: encode("MP3"),
    "AIFF": lambda: encode("AIFF"),
    "WAV of 0 Hz": lambda: patch(encode("WAV"), SAMPLE_RATE, "<I", 0),
    "WAV of 1 Hz": lambda: encode("WAV", tone(5, 1), 1),
    "WAV of 4 GHz": lambda: patch(encode("WAV"), SAMPLE_RATE, "<I", 2**32 - 1),
    "WAV of 0 channels": lambda: patch(encode("WAV"), CHANNELS, "<H", 0),
    "WAV with a NaN": lambda: wav_with_sample(np.nan),
    "WAV with an infinite sample": lambda: wav_with_sample(np.inf),
    "WAV with a sample of 1e20": lambda: wav_with_sample(1e20),
    "WAV whose samples are shorter than declared": lambda: encode("WAV")[:-1],
    "WAV whose samples are longer than declared": lambda: patch(
        encode("WAV"), DATA_SIZE, "<I", 16_000
    ),
    "WAV whose samples have no declared length": lambda: patch(encode("WAV"), DATA_SIZE, "<I", 0),
    "WAV that declares 4 GB, as recorders do": lambda: patch(
        encode("WAV"), DATA_SIZE, "<I", 2**32 - 1
    ),
    "WAV of 24 bits that declares 4 GB": lambda: patch(
        encode("WAV", subtype="PCM_24"), DATA_SIZE, "<I", 2**32 - 1
    ),
    "WAV whose RIFF size is wrong": lambda: patch(encode("WAV"), RIFF_SIZE, "<I", 7),
    "FLAC that declares 64 billion samples": lambda: flac_of_declared_samples(2**36 - 1),
    "FLAC that declares fewer samples than it holds": lambda: flac_of_declared_samples(100),
    "FLAC cut in half": lambda: encode("FLAC")[: len(encode("FLAC")) // 2],
    "OGG cut in half": lambda: encode("OGG")[: len(encode("OGG")) // 2],
    "MP3 cut in half": lambda: encode("MP3")[: len(encode("MP3")) // 2],
    "MP3 with zeros behind its tag": lambda: id3_header(9) + bytes(5_000) + encode("MP3"),
    "MP3 with junk in its middle": lambda: mp3_with_junk(),
    "MP3 with a tag that declares 256 MB": lambda: id3_header(2**28 - 1) + encode("MP3"),
    "WAV too long": lambda: silence("WAV", MAX_SECONDS + 1),
    "FLAC too long": lambda: silence("FLAC", MAX_SECONDS + 1),
    "OGG too long": lambda: silence("OGG", MAX_SECONDS + 1),
    "MP3 too long": lambda: silence("MP3", MAX_SECONDS + 1),
    "FLAC of 655,350 Hz over the limit of samples": lambda: silence("FLAC", 2, 655_350),
    "OGG of 8 channels over the limit of samples": lambda: silence("OGG", 3, 48_000, 8),
    "WAV followed by a PDF": lambda: encode("WAV") + b"%PDF-1.7" + bytes(100),
    "PDF followed by a WAV": lambda: b"%PDF-1.7" + encode("WAV"),
    **{name: partial(encode_container, name) for name in CONTAINERS},
    "M4A cut in half": lambda: encode_container("M4A")[:4_000],
    "WebM cut in half": lambda: encode_container("WebM")[:5_000],
    "M4A too long": lambda: encode_container("M4A", MAX_SECONDS + 1),
    "MP4 that declares 2 billion packets": lambda: with_field(
        with_field(encode_container("MP4"), b"stsz", 4, 1, 2**31 - 1), b"stsc", 12, 2**31 - 1
    ),
    "HLS playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "MIDI": lambda: b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + bytes(40),
}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_seconds=MAX_SECONDS) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_recording_has_its_documented_response(
    client: TestClient, documented_responses: Any, name: str
) -> None:
    response = client.post("/predict", files={FIELD: ("file", CASES[name]())})
    error = response.json().get("error", {"code": None, "field": FIELD})
    assert (response.status_code, error["code"]) == documented_responses("Audio")[name]
    assert error["field"] == FIELD


def test_every_documented_recording_is_tested(documented_responses: Any) -> None:
    assert set(documented_responses("Audio")) == set(CASES)


@pytest.mark.parametrize("container", ["FLAC", "OGG", "MP3"])
def test_decoding_stops_once_a_recording_exceeds_the_limit(
    monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    decoded = 0
    read = soundfile.SoundFile.read

    def counting_read(self: Any, *arguments: Any, **options: Any) -> np.ndarray:
        nonlocal decoded
        block = read(self, *arguments, **options)
        decoded += len(block)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    kind = Audio("audio", {}, limits=Limits(seconds=20))
    with pytest.raises(InputError) as error:
        kind.decode(silence(container, 120))
    assert error.value.code == "too_large"
    assert 20 * 8_000 < decoded < 40 * 8_000
