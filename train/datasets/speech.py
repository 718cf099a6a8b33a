"""Synthetic speech in noise.

The package `espeakng-loader` bundles espeak-ng, the library and the voices that synthesise speech.
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

# Constants of espeak-ng's speak_lib.h.
_SYNCHRONOUS_RETRIEVAL = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_RANDOM_SEED = 1
_BUFFER_MILLISECONDS = 2_000

# The pauses of espeak-ng before and after a word stay below this fraction of the peak.
_SILENCE_FRACTION = 0.01

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
# The library keeps its state in global variables, so only one thread may use it at a time.
_library_lock = threading.Lock()


@dataclass(frozen=True)
class Voice:
    """A voice of espeak-ng and its settings.

    Attributes:
        language: The language file with its family, such as `roa/fr`. With the short name `fr`,
            espeak-ng reads all voices to find it.
        speaker: The name of a voice variant.
        rate: Words per minute, 80 or more.
        pitch: 0 to 100; 50 is the natural pitch of the speaker.
        pitch_range: 0 (monotone) to 100; 50 is the natural range of the speaker.
    """

    language: str
    speaker: str
    rate: int
    pitch: int
    pitch_range: int


def synthesize(text: str, voice: Voice) -> NDArray[np.int16]:
    """Synthesise speech.

    The same arguments give the same samples in any order of calls, except for the two variants that
    use the random numbers of the C library (`Reed` and `caleb`).

    To keep Ctrl-C working, call this function outside the main thread: Python raises
    KeyboardInterrupt in the main thread, and ctypes drops exceptions in callbacks of the library.

    Returns:
        Samples [n], mono, at `SAMPLE_RATE`.

    Raises:
        UsageError: If `espeakng-loader` is not installed or its voices cannot be read.
        DimmlError: If espeak-ng has no such voice, or fails.
    """
    blocks: list[bytes] = []

    def receive(samples: ctypes.c_void_p, count: int, _events: ctypes.c_void_p) -> int:
        if samples and count > 0:
            blocks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(receive)
    with _library_lock, _fresh_library() as library:
        library.espeak_SetSynthCallback(callback)
        name = f"{voice.language}+{voice.speaker}"
        # For an unknown variant, espeak-ng uses its default voice without an error.
        if not (data_folder() / "voices" / "!v" / voice.speaker).is_file():
            raise DimmlError(f"espeak-ng has no voice variant {voice.speaker!r}")
        _check(library.espeak_SetVoiceByName(name.encode()), f"choosing the voice {name!r}")
        _check(library.espeak_SetParameter(_RATE, voice.rate, 0), "setting the rate")
        _check(library.espeak_SetParameter(_PITCH, voice.pitch, 0), "setting the pitch")
        _check(library.espeak_SetParameter(_PITCH_RANGE, voice.pitch_range, 0), "setting the range")
        data = text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        _check(library.espeak_Synth(data, size, 0, 0, 0, _UTF8, None, None), "speaking")
    return np.frombuffer(b"".join(blocks), dtype=np.int16)


def resample(speech: NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Resample speech of `synthesize`, scale it to -1 .. 1, and trim silence at both ends."""
    samples: NDArray[np.float64] = soxr.resample(speech / 32768, SAMPLE_RATE, sample_rate)
    audible = np.flatnonzero(np.abs(samples) > _SILENCE_FRACTION * np.abs(samples).max())
    return samples[audible[0] : audible[-1] + 1]


def mix(
    speech: NDArray[np.float64],
    *,
    length: int,
    snr: float,
    level: float,
    noise_exponent: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Place speech at a random position of a noisy clip.

    Args:
        speech: Samples [m].
        length: Length of the clip in samples; longer speech lengthens the clip.
        snr: Ratio of the speech's power to the noise's power, in decibels.
        level: Root mean square in decibels of full scale; lowered if samples would exceed it.
        noise_exponent: Exponent of `coloured_noise`.
        rng: Source of the noise and the position.

    Returns:
        Samples [max(length, m)], from -1 to 1.
    """
    length = max(length, len(speech))
    start = rng.integers(length - len(speech), endpoint=True)
    noise = coloured_noise(length, noise_exponent, rng)
    clip = noise * _root_mean_square(speech) / _amplitude(snr)
    clip[start : start + len(speech)] += speech
    clip *= _amplitude(level) / _root_mean_square(clip)
    return clip / max(1.0, float(np.abs(clip).max()))


def coloured_noise(length: int, exponent: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise [length] of mean power 1 whose power density falls as 1 / f ** exponent.

    The exponent is 0 for white, 1 for pink, 2 for brown and -1 for blue noise.
    """
    padded = scipy.fft.next_fast_len(length, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(padded))
    spectrum[0] = 0
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-exponent / 2)
    noise: NDArray[np.float64] = scipy.fft.irfft(spectrum, padded)[:length]
    return noise / _root_mean_square(noise)


def data_folder() -> Path:
    """Return the folder of espeak-ng's languages and voices."""
    return Path(require("espeakng_loader").get_data_path())


@contextmanager
def _fresh_library() -> Iterator[ctypes.CDLL]:
    """Load the library for the block, and unload it afterwards.

    espeak-ng keeps state between utterances, such as the phase of a voice's flutter, which neither
    a seed nor `espeak_Terminate` resets. Loading the library again resets the state in 0.3 ms, but
    only where the C library unloads it (musl does not) and no other code has it loaded.
    """
    library = ctypes.CDLL(require("espeakng_loader").get_library_path())
    try:
        folder = str(data_folder())
        rate = library.espeak_Initialize(
            _SYNCHRONOUS_RETRIEVAL, _BUFFER_MILLISECONDS, folder.encode(), _DO_NOT_EXIT
        )
        if rate != SAMPLE_RATE:
            raise UsageError(
                f"espeak-ng cannot read its voices in {folder} (status {rate}); reinstall "
                "espeakng-loader, in a folder whose path has at most 160 characters"
            )
        library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
        yield library
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)


def _check(status: int, action: str) -> None:
    if status != 0:
        raise DimmlError(f"espeak-ng failed while {action} (status {status})")


def _root_mean_square(samples: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))
