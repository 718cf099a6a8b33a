"""Recordings as arrays, with and without a rate."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import soundfile

from dimml.errors import InputError
from dimml.modalities import Audio, Limits
from dimml.samples import AudioArray

RATE = 16_000


def chirp(seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 900 * time) * time)).astype(np.float32)


def encode(samples: np.ndarray, rate: int = RATE, sub: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=sub)
    return file.getvalue()


def audio(limits: Limits | None = None) -> Audio:
    return Audio("sound", {"seconds": None}, limits=limits)


def decode_error(kind: Audio, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    return caught.value


WAV = encode(chirp(0.1))
INVALID = {
    "array of 32-bit integers": (np.zeros(9, np.int32), "unreadable", "divide other integers by"),
    "array of bytes": (np.zeros(9, np.uint8), "unreadable", "float (full scale 1) or int16"),
    "rate of 0": (AudioArray(np.zeros(9), 0), "unreadable", "1 to 768,000 is accepted"),
    "rate that is no integer": (AudioArray(np.zeros(9), 1.5), "unreadable", "an integer in Hz"),
    "rate that is text": (AudioArray(np.zeros(9), "16k"), "unreadable", "an integer in Hz"),
    "list of integers": (AudioArray([0, 9, -3], RATE), "unreadable", "divide other integers by"),
    "ragged list": (AudioArray([[0.0], [0.0, 1.0]], RATE), "unreadable", "not an array"),
    "two recordings": ([WAV, WAV], "unreadable", "got list"),
}


@pytest.mark.parametrize(("value", "code", "message"), INVALID.values(), ids=INVALID)
def test_invalid_array_is_rejected(value: Any, code: str, message: str) -> None:
    error = decode_error(audio(), value)
    assert error.code == code
    assert message in error.message


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_array_with_a_rate_is_resampled_like_a_file(rate: int) -> None:
    samples = chirp(0.5, rate)
    expected = audio().decode(encode(samples, rate, sub="FLOAT")).samples
    for value in (samples, samples.astype(np.float64), samples.tolist()):
        decoded = audio().decode(AudioArray(value, rate)).samples
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_int16_array_equals_the_file_of_its_samples(channels: int) -> None:
    samples = (np.stack([chirp(0.2)] * channels, axis=1) * 32_767).astype(np.int16)
    expected = audio().decode(encode(samples)).samples
    for value in (samples, AudioArray(samples, RATE)):
        np.testing.assert_array_equal(audio().decode(value).samples, expected)
    assert audio().decode(np.full(9, -32_768, np.int16)).samples.min() == -1


@pytest.mark.parametrize("value", [WAV, chirp(0.1), AudioArray(chirp(0.1), RATE)])
def test_list_of_one_recording_is_that_recording(value: Any) -> None:
    alone = audio().decode(value).samples
    np.testing.assert_array_equal(audio().decode([value]).samples, alone)


def test_limits_apply_to_an_array_with_a_rate() -> None:
    kind = audio(Limits(seconds=1.0))
    long = AudioArray(chirp(1.1, 8_000), 8_000)
    assert decode_error(kind, long).message == "the recording is over the limit of 1 s"
    dense = AudioArray(np.zeros((48_000, 3), np.float32), 48_000)
    assert "96,000 samples in all channels" in decode_error(kind, dense).message
