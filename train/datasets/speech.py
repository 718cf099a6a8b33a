"""Synthetic speech in noise.

The speech is espeak-ng's, from the library and voices that `espeakng-loader` bundles.
"""

from __future__ import annotations

import _ctypes
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import soxr
from numpy.typing import NDArray

from dimml.errors import DimmlError, UsageError
from train.datasets import require

SAMPLE_RATE = 22_050

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS_RETRIEVAL = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_RANDOM_SEED = 1
_BUFFER_MILLISECONDS = 2_000

# Fraction of the peak below which espeak-ng's pauses before and after a word stay.
_SILENCE = 0.01

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
# The library keeps its state in global variables.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """Who speaks, and how.

    Attributes:
        language: espeak-ng's language file, with its family: `roa/fr`. The short name `fr` finds
            the same file, after reading every voice there is.
        speaker: name of an espeak-ng voice variant.
        rate: words per minute, from 80.
        pitch: 0 to 100; 50 is the speaker's own.
        pitch_range: 0 (monotone) to 100; 50 is the speaker's own.
    """

    language: str
    speaker: str
    rate: int
    pitch: int
    pitch_range: int


def synthesize(text: str, voice: Voice) -> NDArray[np.int16]:
    """Speaks `text`.

    The same arguments give the same samples whatever was spoken before, except with the two
    variants that use the C library's random numbers (`Reed` and `caleb`).

    Call it outside the main thread where Ctrl-C has to work: Python raises KeyboardInterrupt in
    the main thread only, and ctypes drops an exception raised while the library calls back.

    Returns:
        samples [n], mono, at `SAMPLE_RATE`.

    Raises:
        UsageError: `espeakng-loader` is not installed or its voices cannot be read.
        DimmlError: espeak-ng does not know the voice, or fails.
    """
    blocks: list[bytes] = []

    def receive(samples: ctypes.c_void_p, count: int, _events: ctypes.c_void_p) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(receive)
    with _one_at_a_time, _fresh_library() as library:
        library.espeak_SetSynthCallback(callback)
        name = f"{voice.language}+{voice.speaker}"
        # espeak-ng takes its plain voice, and says nothing, where it does not know the variant.
        if not (data_folder() / "voices" / "!v" / voice.speaker).is_file():
            raise DimmlError(f"espeak-ng has no voice variant {voice.speaker!r}.")
        _check(library.espeak_SetVoiceByName(name.encode()), f"choosing the voice {name!r}")
        _check(library.espeak_SetParameter(_RATE, voice.rate, 0), "setting the rate")
        _check(library.espeak_SetParameter(_PITCH, voice.pitch, 0), "setting the pitch")
        _check(library.espeak_SetParameter(_PITCH_RANGE, voice.pitch_range, 0), "setting the range")
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        _check(library.espeak_Synth(data, size, 0, 0, 0, _UTF8, None, None), "speaking")
    return np.frombuffer(b"".join(blocks), dtype=np.int16)


def resample(speech: NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Speech from `synthesize` at another sample rate, from -1 to 1, without silence around it."""
    samples: NDArray[np.float64] = soxr.resample(speech / 32768, SAMPLE_RATE, sample_rate)
    heard = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    return samples[heard[0] : heard[-1] + 1]


def mix(
    speech: NDArray[np.float64],
    *,
    length: int,
    snr: float,
    level: float,
    noise_exponent: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Puts speech somewhere in a noisy clip, whole.

    Args:
        speech: samples [m].
        length: of the clip, in samples; a clip too short for the speech becomes as long.
        snr: power of the speech, while it lasts, over that of the noise, in decibels.
        level: root mean square of the clip in decibels below full scale; less if it would clip.
        noise_exponent: of `coloured_noise`.
        rng: draws the noise, and where the speech starts.

    Returns:
        samples [max(length, m)], from -1 to 1.
    """
    length = max(length, len(speech))
    start = rng.integers(length - len(speech), endpoint=True)
    noise = coloured_noise(length, noise_exponent, rng)
    clip = noise * _root_mean_square(speech) / _amplitude(snr)
    clip[start : start + len(speech)] += speech
    clip *= _amplitude(level) / _root_mean_square(clip)
    return clip / max(1.0, float(np.abs(clip).max()))


def coloured_noise(length: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise [length] with power 1, spread over frequencies f as 1 / f ** exponent.

    The exponent is 0 for white, 1 for pink, 2 for brown and -1 for blue noise.
    """
    padded = scipy.fft.next_fast_len(length, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(padded))
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    noise: NDArray[np.float64] = scipy.fft.irfft(spectrum, padded)[:length]
    return noise / _root_mean_square(noise)


def data_folder() -> Path:
    """Where the languages and voices are."""
    return Path(require("espeakng_loader").get_data_path())


@contextmanager
def _fresh_library() -> Iterator[ctypes.CDLL]:
    """The library as if just started, unloaded afterwards.

    espeak-ng carries state from one utterance to the next, such as the phase of a voice's
    flutter, that neither its seed nor `espeak_Terminate` resets. Loading the library anew does, in
    0.3 ms, where the C library really unloads (musl does not) and nobody else has it loaded.
    """
    library = ctypes.CDLL(require("espeakng_loader").get_library_path())
    try:
        folder = str(data_folder())
        rate = library.espeak_Initialize(
            _SYNCHRONOUS_RETRIEVAL, _BUFFER_MILLISECONDS, folder.encode(), _DO_NOT_EXIT
        )
        if rate != SAMPLE_RATE:
            raise UsageError(
                f"espeak-ng cannot read its voices in {folder} (it answered {rate}). Its limit for "
                "that path is 160 characters; if it is shorter, reinstall espeakng-loader."
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
        yield library
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


def _check(status: int, action: str) -> None:
    if status != 0:
        raise DimmlError(f"espeak-ng failed while {action} (status {status}).")


def _root_mean_square(samples: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))
