from __future__ import annotations

import numpy as np
import pytest

from dimml.errors import DimmlError
from train.datasets import digits, speech
from train.datasets.speech import Voice


class TestSpeech:
    def test_whole_speech_is_anywhere_in_the_clip(self) -> None:
        spoken = np.sin(np.arange(1, 3_000) / 7)
        starts = set()
        for seed in range(20):
            rng = np.random.default_rng(seed)
            clip = speech.mix(
                spoken, length=4_000, snr=60.0, level=-20.0, noise_exponent=0.0, rng=rng
            )
            match = np.correlate(clip, spoken, "valid")
            starts.add(int(match.argmax()))
            similarity = match.max() / np.linalg.norm(clip) / np.linalg.norm(spoken)
            assert similarity == pytest.approx(1, abs=1e-3)
        assert len(starts) > 10

    def test_clip_is_never_shorter_than_its_speech(self) -> None:
        rng = np.random.default_rng(0)
        clip = speech.mix(
            np.ones(900), length=500, snr=10.0, level=-20.0, noise_exponent=1.0, rng=rng
        )
        assert len(clip) == 900

    @pytest.mark.parametrize("snr", [0.0, 20.0])
    def test_mix_has_the_requested_noise_and_level(self, snr: float) -> None:
        spoken = np.sin(np.arange(16_000) / 7)
        rng = np.random.default_rng(0)
        clip = speech.mix(spoken, length=16_000, snr=snr, level=-20.0, noise_exponent=0.0, rng=rng)
        noise = clip - spoken * (clip @ spoken) / (spoken @ spoken)
        speech_power = np.mean(clip**2) - np.mean(noise**2)
        assert np.sqrt(np.mean(clip**2)) == pytest.approx(0.1)
        assert 10 * np.log10(speech_power / np.mean(noise**2)) == pytest.approx(snr, abs=0.5)

    def test_loud_clip_stays_within_full_scale(self) -> None:
        rng = np.random.default_rng(0)
        clip = speech.mix(
            np.ones(900), length=2_000, snr=0.0, level=6.0, noise_exponent=0.0, rng=rng
        )
        assert np.abs(clip).max() == pytest.approx(1)

    @pytest.mark.parametrize("exponent", digits.NOISE_EXPONENTS)
    def test_coloured_noise_has_its_slope_and_power(self, exponent: float) -> None:
        noise = speech.coloured_noise(2**16, exponent, np.random.default_rng(0))
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(8, 15)]
        slope = np.polyfit(np.arange(len(octaves)), np.log2(octaves), 1)[0]
        assert len(noise) == 2**16
        assert np.mean(noise**2) == pytest.approx(1)
        assert slope == pytest.approx(-exponent, abs=0.1)

    def test_resample_drops_the_silence_around_a_word(self) -> None:
        tone = 20_000 * np.sin(np.arange(22_050) * 2 * np.pi * 441 / 22_050)
        silence = np.zeros(5_000)
        padded = np.concatenate([silence, tone, silence]).astype(np.int16)
        assert len(speech.resample(padded, 16_000)) == pytest.approx(16_000, abs=200)

    @pytest.mark.parametrize(
        "voice", [Voice("gmw/en", "nobody", 160, 50, 50), Voice("gmw/xx", "m3", 160, 50, 50)]
    )
    def test_unknown_voice_is_rejected(self, voice: Voice) -> None:
        with pytest.raises(DimmlError, match=r"nobody|gmw/xx"):
            speech.synthesize("one", voice)
