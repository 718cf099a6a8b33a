from __future__ import annotations

import io
import math
import struct
import sys
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import soxr
import torch

from dimml.errors import InputError
from dimml.modalities import Audio, Limits
from dimml.nn.encoders import LogMel

RATE = 16_000


def chirp(seconds: float, rate: int = RATE) -> np.ndarray:
    """A rising tone with a tremolo over noise: energy in every band, float32 [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * (200 + 900 * time) * time) * (0.6 + 0.3 * np.sin(30 * time))
    noise = np.random.default_rng(0).standard_normal(len(time))
    return (0.5 * tone + 0.01 * noise).astype(np.float32)


def encode(
    samples: np.ndarray, rate: int = RATE, form: str = "WAV", sub: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=sub)
    return file.getvalue()


def audio(limits: Limits | None = None, **config: Any) -> Audio:
    return Audio("sound", {"seconds": None, **config}, limits=limits)


def refusal(kind: Audio, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == "sound"
    return caught.value


class TestChain:
    @pytest.mark.parametrize(
        ("rate", "n_fft", "hop_length", "n_mels"),
        [
            (16_000, 512, 160, 64),
            (8_000, 256, 80, 40),
            (22_050, 2048, 512, 128),
            (44_100, 401, 1, 8),
        ],
    )
    def test_it_equals_librosa(self, rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
        samples = chirp(0.3, rate)
        kind = audio(sample_rate=rate, n_fft=n_fft, hop_length=hop_length)
        expected = librosa.power_to_db(
            librosa.feature.melspectrogram(
                y=samples, sr=rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels
            )
        )
        np.testing.assert_allclose(decibels(kind, samples, n_mels), expected, atol=2e-3)

    def test_it_equals_librosa_after_resampling(self) -> None:
        samples = chirp(0.5, 44_100)
        at_16k = librosa.resample(samples, orig_sr=44_100, target_sr=RATE, res_type="soxr_hq")
        mel = librosa.feature.melspectrogram(
            y=at_16k, sr=RATE, n_fft=512, hop_length=160, n_mels=64
        )
        value = encode(samples, 44_100, sub="FLOAT")
        np.testing.assert_allclose(
            decibels(audio(), value, 64), librosa.power_to_db(mel), atol=2e-3
        )

    def test_silence_is_at_the_floor(self) -> None:
        assert decibels(audio(), np.zeros(RATE, np.float32), 64) == pytest.approx(-100.0)

    def test_the_fixed_length_keeps_the_middle_or_appends_silence(self) -> None:
        kind, free, samples = audio(seconds=0.5), audio(), chirp(1.0)
        np.testing.assert_array_equal(power(kind, samples), power(free, samples[4_000:12_000]))
        padded = np.concatenate([samples[:3_000], np.zeros(5_000, np.float32)])
        np.testing.assert_array_equal(power(kind, samples[:3_000]), power(free, padded))

    @pytest.mark.parametrize("samples", [1, 159, 160, 8_001])
    def test_the_variable_length_has_a_frame_for_each_hop_begun(self, samples: int) -> None:
        assert power(audio(), chirp(1.0)[:samples]).shape == (257, samples // 160 + 1)

    def test_only_equal_lengths_share_a_bucket(self) -> None:
        kind = audio()
        short, long, other = (kind.preprocess(kind.decode(chirp(s))) for s in (0.5, 1.0, 0.5))
        assert kind.bucket(short) == kind.bucket(other) != kind.bucket(long)
        assert kind.collate([short, other])["power"].shape == (2, 257, 51)

    def test_what_it_gives_as_an_example_has_no_warnings(self) -> None:
        kind = audio(seconds=1.0)
        assert kind.warnings(kind.decode(kind.example())) == ()


class TestDecoding:
    @pytest.mark.parametrize(
        ("form", "sub", "error"),
        [
            ("WAV", "PCM_16", 1e-4),
            ("WAV", "PCM_U8", 1e-2),
            ("WAV", "FLOAT", 0),
            ("FLAC", "PCM_16", 1e-4),
            ("OGG", "VORBIS", 0.15),
            ("MP3", "MPEG_LAYER_III", 0.15),
        ],
    )
    def test_formats(self, form: str, sub: str, error: float) -> None:
        samples = chirp(1.0)
        decoded = audio().decode(encode(samples, form=form, sub=sub)).samples
        assert (decoded.dtype, decoded.shape) == (np.float32, samples.shape)
        assert np.abs(decoded - samples).max() <= error

    def test_bytes_paths_files_and_arrays_are_the_same(self, tmp_path: Path) -> None:
        samples, path = chirp(0.2), tmp_path / "a.wav"
        data = encode(samples, sub="FLOAT")
        path.write_bytes(data)
        with path.open("rb") as file:
            values = [data, bytearray(data), memoryview(data), path, str(path), file, samples]
            for value in values:
                np.testing.assert_array_equal(audio().decode(value).samples, samples)

    @pytest.mark.parametrize("channels", [2, 8])
    def test_channels_are_averaged(self, channels: int) -> None:
        samples = np.stack([chirp(0.2) * share for share in np.linspace(0, 1, channels)], axis=1)
        for value in (samples, encode(samples, sub="FLOAT")):
            np.testing.assert_allclose(audio().decode(value).samples, samples.mean(1), atol=1e-6)

    @pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 192_000])
    def test_rates_are_resampled_by_soxr(self, rate: int) -> None:
        samples = chirp(0.5, rate)
        decoded = audio().decode(encode(samples, rate, sub="FLOAT")).samples
        np.testing.assert_array_equal(decoded, soxr.resample(samples, rate, RATE))
        assert len(decoded) == round(len(samples) * RATE / rate)


class TestLimits:
    def test_seconds_hold_for_files_and_arrays(self) -> None:
        kind = audio(Limits(seconds=1.0))
        assert len(kind.decode(encode(chirp(1.0))).samples) == RATE
        for value in (encode(chirp(1.1)), encode(chirp(1.1, 8_000), 8_000), chirp(1.1)):
            error = refusal(kind, value)
            assert error.code == "too_large"
            assert "limit of 1 s" in error.message

    def test_bytes_hold_however_the_value_comes(self, tmp_path: Path) -> None:
        data, path = encode(chirp(0.1)), tmp_path / "a.wav"
        path.write_bytes(data)
        kind = audio(Limits(bytes=len(data) - 1))
        for value in (data, path, io.BytesIO(data)):
            assert refusal(kind, value).code == "too_large"
        assert len(audio(Limits(bytes=len(data))).decode(data).samples) == 1_600


def header(data: bytes, offset: int, value: int) -> bytes:
    """The file with one 32-bit number of its header replaced."""
    return data[:offset] + struct.pack("<I", value) + data[offset + 4 :]


WAV = encode(chirp(0.1))
SAMPLE_RATE, DATA_SIZE = 24, 40

BROKEN = {
    "no bytes": (b"", "unreadable", "empty (0 bytes)"),
    "text": (b"hello" * 100, "unsupported_type", "WAV, FLAC, OGG and MP3"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "unsupported_type", "WAV, FLAC, OGG and MP3"),
    "a header alone": (encode(chirp(0.1)[:0]), "unreadable", "no samples"),
    "less than a sample": (
        encode(chirp(0.1)[:1], 192_000),
        "unreadable",
        "shorter than one sample",
    ),
    "cut in the header": (WAV[:20], "unreadable", "WAV, FLAC, OGG and MP3"),
    "cut in the samples": (
        WAV[:-1_000],
        "unreadable",
        "declares 3,200 bytes of samples and it holds 2,200",
    ),
    "a WAV of 4 GB by its header": (
        header(WAV, DATA_SIZE, 0xFFFF_FFF0),
        "unreadable",
        "declares 4,294,967,280 bytes",
    ),
    "0 Hz": (header(WAV, SAMPLE_RATE, 0), "unreadable", "write it again"),
    "800 kHz": (header(WAV, SAMPLE_RATE, 800_000), "unreadable", "1 to 768,000 is accepted"),
    "a cut FLAC": (encode(chirp(1.0), form="FLAC")[:9_000], "unreadable", "write it again"),
    "a cut OGG": (encode(chirp(1.0), form="OGG")[:100], "unreadable", "write it again"),
    "65 channels": (encode(np.zeros((9, 65))), "unreadable", "at most 64"),
    "an empty array": (np.zeros(0, np.float32), "unreadable", "not empty"),
    "an integer array": (np.zeros(9, np.int16), "unreadable", "must be float"),
    "three axes": (np.zeros((2, 9, 2)), "unreadable", "[samples, channels]"),
    "channels first": (np.zeros((2, RATE)), "unreadable", "at most 64 channels"),
    "no file": (Path("no/such.wav"), "unreadable", "no such file"),
    "a folder": (Path(), "unreadable", "not a regular file"),
    "a null byte": ("a\0b", "unreadable", "no such file"),
    "a number": (3, "unreadable", "expected bytes, a path or an open binary file, got int"),
    "a text file": (io.StringIO("text"), "unreadable", "expected bytes"),
}


class TestRefusals:
    @pytest.mark.parametrize(("value", "code", "says"), BROKEN.values(), ids=BROKEN)
    def test_each_says_what_is_wrong(self, value: Any, code: str, says: str) -> None:
        error = refusal(audio(), value)
        assert error.code == code
        assert says in error.message
        assert "object at 0x" not in error.message

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e20])
    @pytest.mark.parametrize("rate", [RATE, 8_000])
    def test_samples_that_are_no_sound(self, bad: float, rate: int) -> None:
        samples = chirp(0.1, rate)
        samples[7] = bad
        for value in (samples, encode(samples, rate, sub="FLOAT")):
            error = refusal(audio(), value)
            assert (error.code, "full scale is 1" in error.message) == ("unreadable", True)

    def test_the_loudest_that_is_accepted_has_finite_power(self) -> None:
        loudest = np.full(RATE, 1e10, np.float32)
        assert np.isfinite(power(audio(n_fft=16_384), loudest)).all()


class TestWarnings:
    @pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (9e-5, True), (2e-4, False)])
    def test_silence(self, peak: float, silent: bool) -> None:
        kind = audio()
        found = kind.warnings(kind.decode(np.full(RATE, peak)))
        assert found == (("the recording is silent",) if silent else ())

    def test_a_recording_that_was_cut(self) -> None:
        kind = audio(seconds=1.0)
        [warning] = kind.warnings(kind.decode(chirp(2.5)))
        assert warning == "the recording lasts 2.5 s; only the middle 1 s was used"
        assert kind.warnings(kind.decode(chirp(1.0))) == ()


def power(kind: Audio, value: Any) -> np.ndarray:
    return kind.preprocess(kind.decode(value))["power"]


def decibels(kind: Audio, value: Any, n_mels: int) -> np.ndarray:
    log_mel = LogMel(kind.config.sample_rate, kind.config.n_fft, n_mels)
    return log_mel.decibels(torch.from_numpy(power(kind, value)[None]))[0].numpy()


def test_a_header_that_points_before_the_file_raises_nothing_in_a_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    data = encode(chirp(0.1), form="AIFF")
    error = refusal(audio(), data[:36] + b"\xff" * 4 + data[40:])
    assert error.code == "unreadable"
    assert ignored == []
