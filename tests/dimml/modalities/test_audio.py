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
    """Return a rising tone with tremolo and noise, float32 [samples], with energy in every band."""
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


def decode_error(kind: Audio, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == "sound"
    return caught.value


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("silence", [1, 2, 3, 0, 0, 0, 0, 0]),
        ("repeat", [1, 2, 3, 1, 2, 3, 0, 0]),
        ("loop", [1, 2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_shorter_recording_is_filled_up(fill: str, expected: list[int]) -> None:
    kind = audio(seconds=8 / RATE, fill=fill, output="waveform")
    samples = np.array([0.1, 0.2, 0.3], np.float32)
    filled = kind.preprocess(kind.decode(samples))["waveform"]
    np.testing.assert_allclose(filled, np.array(expected) / 10, atol=1e-7)


class TestSpectrogram:
    @pytest.mark.parametrize(
        ("rate", "n_fft", "hop_length", "n_mels"),
        [
            (16_000, 512, 160, 64),
            (8_000, 256, 80, 40),
            (22_050, 2048, 512, 128),
            (44_100, 401, 1, 8),
        ],
    )
    def test_log_mel_equals_librosa(
        self, rate: int, n_fft: int, hop_length: int, n_mels: int
    ) -> None:
        samples = chirp(0.3, rate)
        kind = audio(sample_rate=rate, n_fft=n_fft, hop_length=hop_length)
        expected = librosa.power_to_db(
            librosa.feature.melspectrogram(
                y=samples, sr=rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels
            )
        )
        np.testing.assert_allclose(decibels(kind, samples, n_mels), expected, atol=2e-3)

    def test_log_mel_equals_librosa_after_resampling(self) -> None:
        samples = chirp(0.5, 44_100)
        at_16k = librosa.resample(samples, orig_sr=44_100, target_sr=RATE, res_type="soxr_hq")
        mel = librosa.feature.melspectrogram(
            y=at_16k, sr=RATE, n_fft=512, hop_length=160, n_mels=64
        )
        value = encode(samples, 44_100, sub="FLOAT")
        np.testing.assert_allclose(
            decibels(audio(), value, 64), librosa.power_to_db(mel), atol=2e-3
        )

    def test_silence_has_the_minimum_level(self) -> None:
        assert decibels(audio(), np.zeros(RATE, np.float32), 64) == pytest.approx(-100.0)

    def test_fixed_length_keeps_the_middle_or_appends_silence(self) -> None:
        kind, free, samples = audio(seconds=0.5), audio(), chirp(1.0)
        np.testing.assert_array_equal(power(kind, samples), power(free, samples[4_000:12_000]))
        padded = np.concatenate([samples[:3_000], np.zeros(5_000, np.float32)])
        np.testing.assert_array_equal(power(kind, samples[:3_000]), power(free, padded))

    @pytest.mark.parametrize("samples", [1, 159, 160, 8_001])
    def test_variable_length_has_one_frame_per_started_hop(self, samples: int) -> None:
        assert power(audio(), chirp(1.0)[:samples]).shape == (257, samples // 160 + 1)

    def test_only_recordings_of_equal_length_share_a_bucket(self) -> None:
        kind = audio()
        short, long, other = (kind.preprocess(kind.decode(chirp(s))) for s in (0.5, 1.0, 0.5))
        assert kind.bucket(short) == kind.bucket(other) != kind.bucket(long)
        assert kind.collate([short, other])["power"].shape == (2, 257, 51)

    def test_audio_example_has_no_warnings(self) -> None:
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
    def test_audio_format_is_decoded(self, form: str, sub: str, error: float) -> None:
        samples = chirp(1.0)
        decoded = audio().decode(encode(samples, form=form, sub=sub)).samples
        assert (decoded.dtype, decoded.shape) == (np.float32, samples.shape)
        assert np.abs(decoded - samples).max() <= error

    def test_audio_from_bytes_path_file_and_array_is_equal(self, tmp_path: Path) -> None:
        samples, path = chirp(0.2), tmp_path / "a.wav"
        data = encode(samples, sub="FLOAT")
        path.write_bytes(data)
        with path.open("rb") as file:
            values = [data, bytearray(data), memoryview(data), path, str(path), file, samples]
            for value in values:
                np.testing.assert_array_equal(audio().decode(value).samples, samples)

    @pytest.mark.parametrize("channels", [2, 8])
    def test_audio_channels_are_averaged(self, channels: int) -> None:
        samples = np.stack([chirp(0.2) * gain for gain in np.linspace(0, 1, channels)], axis=1)
        for value in (samples, encode(samples, sub="FLOAT")):
            np.testing.assert_allclose(audio().decode(value).samples, samples.mean(1), atol=1e-6)

    @pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 192_000])
    def test_audio_is_resampled_by_soxr(self, rate: int) -> None:
        samples = chirp(0.5, rate)
        decoded = audio().decode(encode(samples, rate, sub="FLOAT")).samples
        np.testing.assert_array_equal(decoded, soxr.resample(samples, rate, RATE))
        assert len(decoded) == round(len(samples) * RATE / rate)


class TestLimits:
    def test_limit_of_seconds_applies_to_files_and_arrays(self) -> None:
        kind = audio(Limits(seconds=1.0))
        assert len(kind.decode(encode(chirp(1.0))).samples) == RATE
        for value in (encode(chirp(1.1)), encode(chirp(1.1, 8_000), 8_000), chirp(1.1)):
            error = decode_error(kind, value)
            assert error.code == "too_large"
            assert "limit of 1 s" in error.message

    def test_limit_of_bytes_applies_to_bytes_path_and_file(self, tmp_path: Path) -> None:
        data, path = encode(chirp(0.1)), tmp_path / "a.wav"
        path.write_bytes(data)
        kind = audio(Limits(bytes=len(data) - 1))
        for value in (data, path, io.BytesIO(data)):
            assert decode_error(kind, value).code == "too_large"
        assert len(audio(Limits(bytes=len(data))).decode(data).samples) == 1_600


def with_header(data: bytes, offset: int, value: int) -> bytes:
    """Return the file with one 32-bit number of its header replaced."""
    return data[:offset] + struct.pack("<I", value) + data[offset + 4 :]


WAV = encode(chirp(0.1))
SAMPLE_RATE, DATA_SIZE = 24, 40

BROKEN = {
    "empty file": (b"", "unreadable", "empty (0 bytes)"),
    "text": (b"hello" * 100, "unsupported_type", "WAV, FLAC, OGG, MP3"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"0" * 100, "unsupported_type", "WAV, FLAC, OGG, MP3"),
    "only a header": (encode(chirp(0.1)[:0]), "unreadable", "has no samples"),
    "less than one sample": (
        encode(chirp(0.1)[:1], 192_000),
        "unreadable",
        "shorter than one sample",
    ),
    "truncated in the header": (WAV[:20], "unreadable", "WAV, FLAC, OGG, MP3"),
    "truncated in the samples": (
        WAV[:-1_000],
        "unreadable",
        "declares 3,200 bytes of samples, but it has only 2,200",
    ),
    "header that declares 2 GB": (
        with_header(WAV, DATA_SIZE, 0x7FFF_0000),
        "unreadable",
        "declares 2,147,418,112 bytes",
    ),
    "0 Hz": (with_header(WAV, SAMPLE_RATE, 0), "unreadable", "convert it again"),
    "800 kHz": (with_header(WAV, SAMPLE_RATE, 800_000), "unreadable", "1 to 768,000 is accepted"),
    "truncated FLAC": (encode(chirp(1.0), form="FLAC")[:9_000], "unreadable", "convert it again"),
    "truncated OGG": (encode(chirp(1.0), form="OGG")[:100], "unreadable", "convert it again"),
    "65 channels": (encode(np.zeros((9, 65))), "unreadable", "at most 64"),
    "empty array": (np.zeros(0, np.float32), "unreadable", "not empty"),
    "three axes": (np.zeros((2, 9, 2)), "unreadable", "[samples, channels]"),
    "channels first": (np.zeros((2, RATE)), "unreadable", "at most 64 channels"),
    "missing file": (Path("no/such.wav"), "unreadable", "no such file"),
    "folder": (Path(), "unreadable", "not a regular file"),
    "null byte": ("a\0b", "unreadable", "no such file"),
    "number": (3, "unreadable", "expected bytes, a path or an open binary file, got int"),
    "text file": (io.StringIO("text"), "unreadable", "expected bytes"),
}


class TestInvalidAudio:
    @pytest.mark.parametrize(("value", "code", "message"), BROKEN.values(), ids=BROKEN)
    def test_invalid_audio_is_rejected(self, value: Any, code: str, message: str) -> None:
        error = decode_error(audio(), value)
        assert error.code == code
        assert message in error.message
        assert "object at 0x" not in error.message

    @pytest.mark.parametrize("sample", [math.nan, math.inf, -math.inf, 1e20])
    @pytest.mark.parametrize("rate", [RATE, 8_000])
    def test_infinite_samples_are_rejected(self, sample: float, rate: int) -> None:
        samples = chirp(0.1, rate)
        samples[7] = sample
        for value in (samples, encode(samples, rate, sub="FLOAT")):
            error = decode_error(audio(), value)
            assert (error.code, "full scale is 1" in error.message) == ("unreadable", True)

    def test_maximum_amplitude_has_finite_power(self) -> None:
        samples = np.full(RATE, 1e10, np.float32)
        assert np.isfinite(power(audio(n_fft=16_384), samples)).all()


class TestWarnings:
    @pytest.mark.parametrize(("peak", "silent"), [(0.0, True), (9e-5, True), (2e-4, False)])
    def test_silence_is_a_warning(self, peak: float, silent: bool) -> None:
        kind = audio()
        warnings = kind.warnings(kind.decode(np.full(RATE, peak)))
        assert warnings == (("the recording is silent",) if silent else ())

    def test_cut_recording_is_a_warning(self) -> None:
        kind = audio(seconds=1.0)
        [warning] = kind.warnings(kind.decode(chirp(2.5)))
        assert warning == "the recording lasts 2.5 s; only the middle 1 s was used"
        assert kind.warnings(kind.decode(chirp(1.0))) == ()


def power(kind: Audio, value: Any) -> np.ndarray:
    return kind.preprocess(kind.decode(value))["power"]


def decibels(kind: Audio, value: Any, n_mels: int) -> np.ndarray:
    log_mel = LogMel(kind.config.sample_rate, kind.config.n_fft, n_mels)
    return log_mel.decibels(torch.from_numpy(power(kind, value)[None]))[0].numpy()


def test_seek_before_the_file_raises_nothing_in_a_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    data = encode(chirp(0.1), form="AIFF")
    error = decode_error(audio(), data[:36] + b"\xff" * 4 + data[40:])
    assert error.code == "unreadable"
    assert unraisable == []
