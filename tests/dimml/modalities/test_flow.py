"""Optical flow: pairs of pictures become two channels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml.errors import InputError
from dimml.modalities import Flow, Limits
from tests.dimml.modalities.encoded import encode_video


def flow(frames: int = 2, limits: Limits | None = None, **settings: Any) -> Flow:
    return Flow("flow", {"size": [4, 6], "frames": frames, **settings}, limits=limits)


def picture(value: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (6, 4), value).save(file, "PNG")
    return file.getvalue()


def pictures(count: int) -> list[bytes]:
    """Return the pictures of `count` pairs: u is 10 n bright, and v is 10 n + 1."""
    return [picture(10 * n + side) for n in range(count) for side in (0, 1)]


def values(kind: Flow, value: Any) -> list[list[int]]:
    """Return the brightness of u and v in each pair that the encoder reads."""
    arrays = kind.preprocess(kind.decode(value))["flow"]
    assert arrays.shape == (kind.config.frames, 2, 4, 6)
    assert arrays.dtype == np.float32
    bright = np.rint((arrays[..., 0, 0] * 0.5 + 0.5) * 255).astype(int)
    return bright.tolist()


def decode_error(value: Any, limits: Limits | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        flow(limits=limits).decode(value)
    assert caught.value.field == "flow"
    return caught.value


def test_pairs_become_two_channels() -> None:
    assert values(flow(), pictures(2)) == [[0, 1], [10, 11]]


def test_grey_of_a_half_is_no_motion() -> None:
    arrays = flow(1).preprocess(flow(1).decode([picture(128), picture(0)]))["flow"]
    assert arrays[0, 0, 0, 0] == pytest.approx(0.004, abs=1e-3)
    assert arrays[0, 1, 0, 0] == -1


def test_pairs_may_be_nested() -> None:
    flat = pictures(2)
    assert values(flow(), [flat[:2], tuple(flat[2:])]) == [[0, 1], [10, 11]]


def test_middle_pairs_are_used_one_after_the_other() -> None:
    assert values(flow(), pictures(7)) == [[20, 21], [30, 31]]


def test_fewer_pairs_are_repeated_in_order() -> None:
    assert values(flow(4), pictures(2)) == [[0, 1], [0, 1], [10, 11], [10, 11]]


def test_pictures_in_color_become_grey(tmp_path: Path) -> None:
    path = tmp_path / "u.jpg"
    PIL.Image.new("RGB", (12, 8), (90, 90, 90)).save(path, quality=100)
    assert values(flow(1), [path, str(path)]) == [[90, 90]]


def test_odd_number_of_pictures_is_rejected() -> None:
    error = decode_error(pictures(2)[:3])
    assert (error.code, error.message[:34]) == ("unreadable", "expected pairs of pictures, got 3;")


@pytest.mark.parametrize("value", [[[b"u", b"v", b"w"]], [[b"u", b"v"], b"u"]])
def test_entry_that_is_no_pair_is_rejected(value: Any) -> None:
    assert "must have two pictures" in decode_error(value).message


def test_single_file_is_rejected() -> None:
    error = decode_error(picture(0))
    assert error.message.startswith("expected pairs of pictures in the order u, v, u, v")


def test_empty_list_is_rejected() -> None:
    assert decode_error([]).message.startswith("expected pairs of pictures, got 0;")


def test_pair_of_different_sizes_is_rejected() -> None:
    file = io.BytesIO()
    PIL.Image.new("L", (9, 4)).save(file, "PNG")
    error = decode_error([picture(0), picture(1), picture(2), file.getvalue()])
    assert error.message == "u and v of a pair differ in size: 6 x 4 and 9 x 4 pixels"


def test_video_in_the_place_of_a_picture_is_rejected() -> None:
    error = decode_error([picture(0), encode_video(frames=2)])
    assert error.code == "unsupported_type"
    assert "a list holds pictures, but an entry is MP4" in error.message


def test_pair_with_an_empty_entry_is_rejected() -> None:
    assert "empty entry" in decode_error([picture(0), None]).message


def test_broken_picture_is_rejected() -> None:
    assert decode_error([picture(0), b"\x89PNG broken"]).code in ("unreadable", "unsupported_type")


def test_limit_of_frames_applies_to_pairs() -> None:
    error = decode_error(pictures(3), Limits(frames=2))
    assert (error.code, error.message) == ("too_large", "6 pictures: over the limit of 4")


def test_blank_flow_has_a_warning() -> None:
    kind = flow(1)
    assert kind.warnings(kind.decode([picture(128)] * 2)) == ("the pictures of the flow are blank",)
    assert kind.warnings(kind.decode(kind.example())) == ()


def test_example_fits_the_configuration() -> None:
    kind = flow(3)
    assert kind.preprocess(kind.decode(kind.example()))["flow"].shape == (3, 2, 4, 6)
