"""Videos for an image modality with `frames`, and their sound for an audio modality."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PillowImage

from dimml.errors import AbsentError, InputError
from dimml.modalities import Audio, Image, Limits, formats, video
from tests.dimml.modalities.encoded import (
    VIDEOS,
    add_track,
    brightness,
    encode_container,
    encode_track,
    encode_video,
)

MIDDLES = [5, 15, 25, 35, 45]
"""The middles of five equal parts of 50 pictures."""


def clip(frames: int | None = 5, limits: Limits | None = None, **settings: Any) -> Image:
    config = {"size": [24, 24], "frames": frames, **settings}
    return Image("clip", config, limits=limits)


def decode_error(kind: Any, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == kind.name
    return caught.value


def outcome(kind: Image, data: bytes) -> str:
    try:
        pictures = kind.decode(data)
    except InputError as error:
        return error.code
    return "decoded" if len(pictures) == kind.config.frames else f"{len(pictures)} pictures"


def numbers(pictures: list[PillowImage.Image]) -> list[float]:
    return [brightness(picture) for picture in pictures]


@pytest.mark.parametrize("name", VIDEOS)
def test_evenly_spaced_pictures_of_a_video_are_decoded(name: str) -> None:
    kind = clip()
    pictures = kind.decode(encode_video(name, sound=True))
    # Lossy encoders change the brightness a little.
    np.testing.assert_allclose(numbers(pictures), MIDDLES, atol=2.5)
    assert kind.warnings(pictures) == ()
    assert kind.preprocess(pictures)["pixels"].shape == (5, 3, 24, 24)


@pytest.mark.parametrize("name", VIDEOS)
def test_sound_of_a_video_is_decoded(name: str) -> None:
    decoded = Audio("sound", {"seconds": None}).decode(encode_video(name, sound=True))
    # Encoders add a part of a frame at the start and the end.
    assert len(decoded.samples) / 16_000 == pytest.approx(2, abs=0.15)
    assert np.abs(decoded.samples[8_000:24_000]).max() == pytest.approx(0.3, abs=0.05)


def test_sound_of_a_silent_video_is_absent() -> None:
    with pytest.raises(AbsentError, match="no sound track"):
        Audio("sound", {}).decode(encode_video())


def test_pictures_of_a_recording_are_absent() -> None:
    with pytest.raises(AbsentError, match="no pictures"):
        clip().decode(encode_container("M4A"))


def test_video_of_one_picture_repeats_it() -> None:
    assert len(set(numbers(clip().decode(encode_video(frames=1))))) == 1


def test_video_shorter_than_the_frames_repeats_pictures() -> None:
    np.testing.assert_allclose(
        numbers(clip(6).decode(encode_video(frames=3))), [0, 0, 1, 1, 2, 2], atol=0.6
    )


def test_portrait_of_a_phone_is_upright() -> None:
    [picture] = clip(1, size=[48, 48]).decode(encode_video(rotation=90, size=(128, 96)))
    assert picture.size == (96, 128)
    # Rotated counterclockwise, the white corner is at the lower left.
    corners = np.asarray(picture.convert("L"))[[3, -4, 3, -4], [3, 3, -4, -4]]
    assert (corners > 180).tolist() == [False, True, False, False]


def test_large_pictures_are_reduced_but_stay_larger_than_the_encoder_reads() -> None:
    [picture] = clip(1).decode(encode_video(size=(640, 480), frames=2))
    assert picture.size == (64, 48)


@pytest.mark.parametrize("name", ["MP4", "FLV", "Matroska", "AVI", "MPEG-TS"])
@pytest.mark.parametrize("key_frames", [5, 1000])
def test_pictures_reached_through_the_index_are_the_same(
    name: str, key_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode_video(name, frames=55, key_frames=key_frames)
    decoded = numbers(clip(4).decode(data))
    monkeypatch.setattr(video, "SEEK_SECONDS", 0.1)
    assert numbers(clip(4).decode(data)) == decoded


def test_index_avoids_decoding_the_pictures_between(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_video(frames=55, key_frames=5)
    monkeypatch.setattr(video, "SEEK_SECONDS", 0.1)
    # Two moments, each at most a few pictures behind a key frame, of 55 pictures.
    monkeypatch.setattr(video, "MAX_DECODED_PIXELS", 25 * 64 * 48)
    assert len(clip(2).decode(data)) == 2


def test_video_that_takes_long_to_decode_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_DECODED_PIXELS", 10 * 64 * 48)
    error = decode_error(clip(), encode_video())
    assert error.code == "too_large"
    assert "30,720 pixels" in error.message


def test_limit_of_seconds_applies_to_a_video() -> None:
    error = decode_error(clip(limits=Limits(seconds=1.5)), encode_video())
    assert error.code == "too_large"
    assert "over the limit of 1.5 s" in error.message


def test_limit_of_pixels_applies_to_a_video() -> None:
    error = decode_error(clip(limits=Limits(pixels=1_000)), encode_video())
    assert error.code == "too_large"
    assert "64 x 48 pixels: over the limit of 1,000 pixels" in error.message


def test_truncated_video_is_read_with_a_warning() -> None:
    data = encode_video("Matroska", sound=False)
    kind = clip()
    pictures = kind.decode(data[: len(data) * 2 // 3])
    [warning] = kind.warnings(pictures)
    assert warning.startswith("the file is damaged (its header declares 2.0 s); only the first")
    shown = numbers(pictures)
    assert shown == sorted(shown)
    assert len(set(shown)) == 5


@pytest.mark.parametrize("name", VIDEOS)
def test_video_cut_at_any_place_is_decoded_or_rejected(name: str) -> None:
    data = encode_video(name)
    for size in range(1, len(data), len(data) // 12):
        code = outcome(clip(), data[:size])
        assert code in ("decoded", "unreadable", "unsupported_type"), size


def test_empty_flv_is_unreadable() -> None:
    error = decode_error(clip(), b"FLV\x01\x05\0\0\0\x09\0\0\0\0")
    assert (error.code, error.message[:24]) == ("unreadable", "cannot decode the video ")


def test_video_for_one_picture_names_the_setting_that_reads_it() -> None:
    error = decode_error(clip(None), encode_video())
    assert error.code == "unsupported_type"
    assert "frames: 8" in error.message


def test_video_without_the_extra_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "is_installed", lambda package: False)
    error = decode_error(clip(), encode_video())
    assert error.code == "unsupported_type"
    assert formats.INSTALL_MEDIA in error.message


def test_list_of_one_video_is_the_video() -> None:
    assert numbers(clip().decode([encode_video()])) == numbers(clip().decode(encode_video()))


def with_late_pictures(name: str) -> bytes:
    """Return a video whose first picture is shown after 0.2 s of sound."""
    muxer, encoder, sound_encoder = VIDEOS[name]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        track = add_track(container, sound_encoder, 44_100, "mono")
        encode_track(container, track, 2.4)
        for number in range(50):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8))
            picture.pts, picture.time_base = number + 5, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("name", ["FLV", "MP4", "Matroska"])
def test_video_that_is_read_twice_may_start_late(name: str) -> None:
    # The sound is longer than the pictures, so the moments are chosen again.
    shown = numbers(clip(8).decode(with_late_pictures(name)))
    assert len(shown) == 8
    assert shown == sorted(shown)
    assert shown[-1] > 40


@pytest.mark.parametrize("name", ["Matroska", "WebM", "FLV"])
def test_truncated_video_with_sound_has_a_warning(name: str) -> None:
    data = encode_video(name, sound=True)
    kind = clip()
    [warning] = kind.warnings(kind.decode(data[: len(data) // 2]))
    assert warning.startswith("the file is damaged (its header declares 2.")


def test_video_in_a_list_of_pictures_is_rejected() -> None:
    error = decode_error(clip(), [encode_video(frames=2), encode_video(frames=2)])
    assert error.code == "unsupported_type"
    assert "an entry is MP4, M4A or 3GP; send a video alone" in error.message
