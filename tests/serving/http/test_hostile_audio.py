"""Odd and hostile recordings over HTTP: each has the answer that docs/inputs.md gives it."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from dimml.errors import InputError
from dimml.modalities import Audio, Limits

FIELD = "audio"
RATE = 16_000
SECONDS = 10
"""The longest recording that the service of these tests takes."""

CHANNELS, SAMPLE_RATE, RIFF_SIZE, DATA_SIZE = 22, 24, 4, 40
"""Offsets in the header of a WAV."""


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    time = np.arange(max(1, round(seconds * rate))) / rate
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.repeat(wave[:, None], channels, axis=1)


def encode(
    form: str, samples: np.ndarray | None = None, rate: int = RATE, sub: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone() if samples is None else samples, rate, format=form, subtype=sub)
    return file.getvalue()


def silence(form: str, seconds: float, rate: int = 8_000, channels: int = 1) -> bytes:
    return encode(form, np.zeros((round(seconds * rate), channels), np.float32), rate)


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    replaced = bytearray(data)
    struct.pack_into(layout, replaced, offset, value)
    return bytes(replaced)


def with_sample(value: float) -> bytes:
    samples = tone().astype(np.float32)
    samples[500] = value
    return encode("WAV", samples, sub="FLOAT")


def flac_claiming(samples: int) -> bytes:
    """A FLAC whose STREAMINFO declares a number of samples (36 bits)."""
    data = bytearray(encode("FLAC"))
    high, low = divmod(samples, 2**32)
    data[21] = data[21] & 0xF0 | high
    data[22:26] = struct.pack(">I", low)
    return bytes(data)


def id3(size: int) -> bytes:
    """The header of an ID3 tag of a size, 7 bits a byte."""
    return b"ID3\4\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


CASES: dict[str, Callable[[], bytes]] = {
    "WAV of 1 sample": lambda: encode("WAV", tone(0)),
    "WAV of no samples": lambda: encode("WAV", np.zeros(0)),
    "WAV of 8 channels": lambda: encode("WAV", tone(channels=8)),
    "WAV of 65 channels": lambda: encode("WAV", tone(0.1, channels=65)),
    "WAV of 64-bit floats": lambda: encode("WAV", sub="DOUBLE"),
    "WAV of 24 bits": lambda: encode("WAV", sub="PCM_24"),
    "WAV in A-law": lambda: encode("WAV", sub="ALAW"),
    "FLAC": lambda: encode("FLAC"),
    "OGG Vorbis": lambda: encode("OGG"),
    "OGG Opus": lambda: encode("OGG", sub="OPUS"),
    "MP3": lambda: encode("MP3"),
    "AIFF": lambda: encode("AIFF"),
    "WAV of 0 Hz": lambda: patched(encode("WAV"), SAMPLE_RATE, "<I", 0),
    "WAV of 1 Hz": lambda: encode("WAV", tone(5, 1), 1),
    "WAV of 4 GHz": lambda: patched(encode("WAV"), SAMPLE_RATE, "<I", 2**32 - 1),
    "WAV of 0 channels": lambda: patched(encode("WAV"), CHANNELS, "<H", 0),
    "WAV with a NaN": lambda: with_sample(np.nan),
    "WAV with an infinite sample": lambda: with_sample(np.inf),
    "WAV with a sample of 1e20": lambda: with_sample(1e20),
    "WAV whose samples are shorter than declared": lambda: encode("WAV")[:-1],
    "WAV whose samples are longer than declared": lambda: patched(
        encode("WAV"), DATA_SIZE, "<I", 16_000
    ),
    "WAV whose RIFF size is wrong": lambda: patched(encode("WAV"), RIFF_SIZE, "<I", 7),
    "FLAC that declares 64 billion samples": lambda: flac_claiming(2**36 - 1),
    "FLAC that declares fewer samples than it holds": lambda: flac_claiming(100),
    "FLAC cut in half": lambda: encode("FLAC")[: len(encode("FLAC")) // 2],
    "OGG cut in half": lambda: encode("OGG")[: len(encode("OGG")) // 2],
    "MP3 cut in half": lambda: encode("MP3")[: len(encode("MP3")) // 2],
    "MP3 with a tag that declares 256 MB": lambda: id3(2**28 - 1) + encode("MP3"),
    "WAV too long": lambda: silence("WAV", SECONDS + 1),
    "FLAC too long": lambda: silence("FLAC", SECONDS + 1),
    "OGG too long": lambda: silence("OGG", SECONDS + 1),
    "MP3 too long": lambda: silence("MP3", SECONDS + 1),
    "FLAC of 655,350 Hz over the limit of samples": lambda: silence("FLAC", 2, 655_350),
    "OGG of 8 channels over the limit of samples": lambda: silence("OGG", 3, 48_000, 8),
    "WAV followed by a PDF": lambda: encode("WAV") + b"%PDF-1.7" + bytes(100),
    "PDF followed by a WAV": lambda: b"%PDF-1.7" + encode("WAV"),
    "MIDI": lambda: b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + bytes(40),
}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle, max_seconds=SECONDS) as client:
        yield client


@pytest.mark.parametrize("name", CASES)
def test_each_has_its_documented_answer(
    client: TestClient, documented_responses: Any, name: str
) -> None:
    answer = client.post("/predict", files={FIELD: ("file", CASES[name]())})
    error = answer.json().get("error", {"code": None, "field": FIELD})
    assert (answer.status_code, error["code"]) == documented_responses("Audio")[name]
    assert error["field"] == FIELD


def test_what_is_documented_is_tested(documented_responses: Any) -> None:
    assert set(documented_responses("Audio")) == set(CASES)


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_what_expands_beyond_the_limit_is_stopped_while_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    decoded = 0
    read = soundfile.SoundFile.read

    def counting(self: Any, *arguments: Any, **options: Any) -> np.ndarray:
        nonlocal decoded
        block = read(self, *arguments, **options)
        decoded += len(block)
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    kind = Audio("audio", {}, limits=Limits(seconds=20))
    with pytest.raises(InputError) as refused:
        kind.decode(silence(form, 120))
    assert refused.value.code == "too_large"
    assert 20 * 8_000 < decoded < 40 * 8_000
