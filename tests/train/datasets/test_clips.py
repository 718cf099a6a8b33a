"""Frames and sound of videos: what is written, and what is kept of a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from tests.dimml.modalities.encoded import encode_container, encode_video, with_index_in_front
from train.datasets.clips import moments_between, write_frames, write_sound
from train.datasets.published import BrokenFileError


def test_moments_are_the_seconds_between_start_and_end() -> None:
    assert moments_between(0, 600, 2.5) == [0, 1, 2]
    assert moments_between(3, 6, 10.0) == [3, 4, 5]
    assert moments_between(3, 6, 4.5) == [3, 4]
    assert moments_between(3, 6, 3.0) == []
    assert moments_between(3, 6, 1.0) == []


def truncate(path: Path, data: bytes) -> Path:
    """Write two thirds of an MP4 whose index is at its beginning."""
    data = with_index_in_front(data)
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def test_frames_before_the_damage_are_written(tmp_path: Path) -> None:
    video = truncate(tmp_path / "video.mp4", encode_video("MP4", 55, sound=True))
    with pytest.raises(BrokenFileError, match=r"video.mp4: the file is damaged") as raised:
        write_frames(video, tmp_path, "frames")
    assert raised.value.cell == ["frames/000.jpg", "frames/001.jpg"]
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["000.jpg", "001.jpg"]


def test_frames_of_a_truncated_flv_are_written_and_reported(tmp_path: Path) -> None:
    data = encode_video("FLV", 55, sound=True)
    video = tmp_path / "video.flv"
    video.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(
        BrokenFileError, match=r"declares 2.2 s\); only the first 1.\d s were read"
    ) as raised:
        write_frames(video, tmp_path, "frames")
    assert raised.value.cell == ["frames/000.jpg", "frames/001.jpg"]


def test_sound_before_the_damage_is_written(tmp_path: Path) -> None:
    video = truncate(tmp_path / "video.mp4", encode_container("MP4", 2.0))
    with pytest.raises(BrokenFileError, match=r"video.mp4: the file is damaged") as raised:
        write_sound(video, tmp_path, "sound.wav", 0, 2)
    assert raised.value.cell == "sound.wav"
    assert 1 < soundfile.info(tmp_path / "sound.wav").duration < 1.6
