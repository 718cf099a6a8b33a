"""The frames and the sound of published video clips, as files of a data set."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import soundfile

from dimml.errors import InputError, UsageError
from dimml.modalities import Audio, formats
from dimml.modalities.base import Limits
from dimml.modalities.decoders import DecodeError
from dimml.modalities.video import read_frames
from train.datasets.published import BrokenFileError, read_content

SAMPLE_RATE = 16_000
FRAME_SECONDS = 1.0
"""Seconds between two frames, as in the source of the method."""

JPEG_QUALITY = 95

_LIMITS = Limits()
_SOUND = Audio("sound", {"sample_rate": SAMPLE_RATE})


def check_decoder(name: str) -> None:
    """Check that the decoder of videos is installed.

    Raises:
        UsageError: If it is not.
    """
    if not formats.is_installed("av"):
        raise UsageError(f"{name} has videos, which PyAV decodes; run `{formats.INSTALL_MEDIA}`")


def moments_between(start: float, end: float, seconds: float) -> list[float]:
    """Return the moments of the frames of a video.

    Args:
        start: The first moment in seconds.
        end: The moments are before this one.
        seconds: The length of the video.
    """
    count = math.ceil((min(end, seconds) - start) / FRAME_SECONDS)
    return [start + number * FRAME_SECONDS for number in range(count)]


def write_frames(
    path: Path, folder: Path, name: str, start: float = 0.0, end: float = _LIMITS.seconds
) -> list[str]:
    """Write one frame per second of a video as JPEG files.

    Args:
        path: The video.
        folder: The folder of the data set.
        name: The path of the folder to make in it.
        start: Where the frames begin, in seconds.
        end: Where they end.

    Returns:
        The paths of the frames, the cell.

    Raises:
        BrokenFileError: If the video is damaged. The frames before the damage are written.
    """
    data = read_content(path)
    found = formats.recognise(data)
    if not found or not found.demuxer:
        raise BrokenFileError(path, f"it is {found.name if found else 'of no known format'}")
    moments = partial(moments_between, start, end)
    try:
        pictures, damage = read_frames(data, found.demuxer, _LIMITS, moments)
    except DecodeError as error:
        raise BrokenFileError(path, f"cannot decode the video ({error.reason})") from error
    if not pictures:
        raise BrokenFileError(path, damage or f"it has no picture from {start:g} to {end:g} s")
    (folder / name).mkdir()
    cell = [f"{name}/{number:03d}.jpg" for number in range(len(pictures))]
    for picture, frame in zip(pictures, cell, strict=True):
        picture.save(folder / frame, quality=JPEG_QUALITY)
    if damage:
        raise BrokenFileError(path, damage, cell)
    return cell


def write_sound(path: Path, folder: Path, name: str, start: float, end: float) -> str:
    """Write a part of the sound of a video as a mono WAV of 16 kHz.

    Args:
        path: The video.
        folder: The folder of the data set.
        name: The path of the WAV in it.
        start: Where the part begins, in seconds.
        end: Where it ends.

    Returns:
        `name`, the cell.

    Raises:
        BrokenFileError: If the sound is missing or damaged. The part before the damage is written.
    """
    try:
        recording = _SOUND.decode(read_content(path))
    except InputError as error:
        raise BrokenFileError(path, error.message.partition(";")[0]) from error
    part = recording.samples[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
    if not len(part):
        raise BrokenFileError(path, f"it has no sound from {start:g} to {end:g} s")
    soundfile.write(folder / name, part, SAMPLE_RATE, subtype="PCM_16")
    if recording.notes:
        raise BrokenFileError(path, recording.notes[0], name)
    return name
