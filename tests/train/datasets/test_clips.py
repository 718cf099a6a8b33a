"""Frames and sound of videos: what is written, and what is kept of a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from tests.dimml.modalities.encoded import encode_video
from train.datasets.clips import moments_between, write_frames, write_sound
from train.datasets.published import BrokenFileError


def test_moments_are_the_seconds_between_start_and_end() -> None:
    assert moments_between(0, float("inf"))(2.5) == [0, 1, 2]
    assert moments_between(3, 6)(10.0) == [3, 4, 5]
    assert moments_between(3, 6)(4.5) == [3, 4]
    assert moments_between(3, 6)(3.0) == []


@pytest.fixture
def truncated(tmp_path: Path) -> Path:
    """Write the first two thirds of a video that declares 2.2 seconds."""
    path = tmp_path / "video.mkv"
    data = encode_video("Matroska", 55, sound=True)
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def test_frames_before_the_damage_are_written(truncated: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match=r"video.mkv: the file is damaged") as raised:
        write_frames(truncated, tmp_path, "frames")
    assert raised.value.cell == ["frames/000.jpg", "frames/001.jpg"]
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["000.jpg", "001.jpg"]


def test_sound_before_the_damage_is_written(truncated: Path, tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match=r"video.mkv: the file is damaged") as raised:
        write_sound(truncated, tmp_path, "sound.wav", 0, 2.2)
    assert raised.value.cell == "sound.wav"
    assert soundfile.info(tmp_path / "sound.wav").duration < 2
