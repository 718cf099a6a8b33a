from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pydantic
import pytest

from dimml.modalities import Image

RAW = {"mean": [0.0], "std": [1.0]}
SIZE = (8, 8)


def image(**config: Any) -> Image:
    return Image("view", {"size": SIZE, **RAW, **config})


def encode(picture: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def animation(levels: Sequence[int], form: str) -> bytes:
    frames = [PIL.Image.new("L", SIZE, level) for level in levels]
    return encode(frames[0], form, save_all=True, append_images=frames[1:])


def pixels(kind: Image, value: Any) -> np.ndarray:
    """Return the preprocessed value in 8-bit units."""
    return kind.preprocess(kind.decode(value))["pixels"] * 255


def palette(transparent: bool) -> PIL.Image.Image:
    picture = PIL.Image.new("P", SIZE, 1)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    if transparent:
        picture.info["transparency"] = 1
    return picture


# Images of a single colour, with the expected RGB and grey values.
MODES = {
    "1": (PIL.Image.new("1", SIZE, 1), (255, 255, 255), 255),
    "L": (PIL.Image.new("L", SIZE, 100), (100, 100, 100), 100),
    "LA, half transparent": (PIL.Image.new("LA", SIZE, (0, 128)), (127, 127, 127), 127),
    "P": (palette(transparent=False), (255, 0, 0), 76),
    "P, transparent": (palette(transparent=True), (255, 255, 255), 255),
    "RGB": (PIL.Image.new("RGB", SIZE, (10, 20, 30)), (10, 20, 30), 18),
    "RGBA, transparent": (PIL.Image.new("RGBA", SIZE, (10, 20, 30, 0)), (255, 255, 255), 255),
    "RGBA, opaque": (PIL.Image.new("RGBA", SIZE, (10, 20, 30, 255)), (10, 20, 30), 18),
    "CMYK": (PIL.Image.new("CMYK", SIZE, (0, 255, 255, 0)), (255, 0, 0), 76),
    "YCbCr": (PIL.Image.new("YCbCr", SIZE, (100, 128, 128)), (100, 100, 100), 100),
    "I;16": (PIL.Image.new("I;16", SIZE, 257 * 100), (100, 100, 100), 100),
    "I, 16 bits": (PIL.Image.new("I", SIZE, 257 * 100), (100, 100, 100), 100),
    "I, 8 bits": (PIL.Image.new("I", SIZE, 100), (100, 100, 100), 100),
    "F, 0 to 1": (PIL.Image.new("F", SIZE, 0.4), (102, 102, 102), 102),
    "F, 0 to 255": (PIL.Image.new("F", SIZE, 102.0), (102, 102, 102), 102),
    "F, infinite": (PIL.Image.new("F", SIZE, float("inf")), (255, 255, 255), 255),
    "F, one value above 255": (PIL.Image.new("F", SIZE, 300.0), (0, 0, 0), 0),
    "F, NaN": (PIL.Image.new("F", SIZE, float("nan")), (0, 0, 0), 0),
}


@pytest.mark.parametrize(("picture", "rgb", "grey"), MODES.values(), ids=MODES)
class TestModes:
    def test_mode_is_converted_to_colour_or_grey(
        self, picture: PIL.Image.Image, rgb: tuple[int, ...], grey: int
    ) -> None:
        for channels, expected in ((3, rgb), (1, (grey,))):
            actual = pixels(image(channels=channels), picture)
            assert (actual.dtype, actual.shape) == (np.float32, (channels, *SIZE))
            np.testing.assert_allclose(actual[:, 3, 3], expected, atol=1)
            assert np.ptp(actual, axis=(1, 2)) == pytest.approx(0, abs=1e-4)

    def test_mode_is_converted_from_a_file(
        self, picture: PIL.Image.Image, rgb: tuple[int, ...], grey: int
    ) -> None:
        form = {"CMYK": "TIFF", "F": "TIFF", "I": "TIFF", "YCbCr": "JPEG"}.get(picture.mode, "PNG")
        assert pixels(image(), encode(picture, form))[:, 3, 3] == pytest.approx(rgb, abs=1)


RANGES = {
    "F, 0 to 1": ("F", [0.0, 0.5, 1.0], [0, 127, 255]),
    "F, 0 to 255": ("F", [0.0, 100.0, 255.0], [0, 100, 255]),
    "F, below 1 and 255": ("F", [0.0, 0.2, 2.0], [0, 0, 2]),
    "F, above 255": ("F", [100.0, 200.0, 300.0], [0, 127, 255]),
    "F, 16 bits": ("F", [0.0, 30_000.0, 60_000.0], [0, 127, 255]),
    "F, negative": ("F", [-1.0, 0.0, 1.0], [0, 127, 255]),
    "F, huge": ("F", [-3e38, 0.0, 3e38], [0, 127, 255]),
    "F, tiny": ("F", [-1e-38, 0.0, 1e-38], [0, 0, 0]),
    "F, with NaN": ("F", [float("nan"), 100.0, 300.0], [0, 0, 255]),
    "F, with infinity": ("F", [float("inf"), -100.0, 300.0], [255, 0, 255]),
    "I, 8 bits": ("I", [0, 100, 255], [0, 100, 255]),
    "I, 16 bits": ("I", [0, 257 * 100, 65_535], [0, 100, 255]),
    "I, above 16 bits": ("I", [0, 50_000, 100_000], [0, 127, 255]),
    "I, negative": ("I", [-100, 0, 100], [0, 127, 255]),
    "I;16, 8 bits": ("I;16", [0, 255, 65_535], [0, 0, 255]),
}


@pytest.mark.parametrize(("mode", "values", "expected"), RANGES.values(), ids=RANGES)
def test_deep_pixels_are_scaled_by_their_range(
    mode: str, values: list[float], expected: list[int]
) -> None:
    dtype = {"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]
    picture = PIL.Image.fromarray(np.array([values], dtype))
    assert picture.mode == mode
    for value in (picture, encode(picture, "TIFF")):
        [decoded] = image(channels=1).decode(value)
        np.testing.assert_allclose(np.asarray(decoded)[0], expected, atol=1)


LEFT_RED = np.zeros((4, 8, 3), np.uint8)
LEFT_RED[:, :4, 0] = 255


class TestDecoding:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
    def test_image_format_is_decoded(self, form: str) -> None:
        data = encode(PIL.Image.new("RGB", SIZE, (200, 100, 50)), form)
        assert pixels(image(), data)[:, 4, 4] == pytest.approx([200, 100, 50], abs=4)

    def test_image_from_bytes_path_file_and_array_is_equal(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(encode(PIL.Image.fromarray(LEFT_RED)))
        with path.open("rb") as file:
            values = [path.read_bytes(), path, str(path), file, PIL.Image.open(path), LEFT_RED]
            for value in values:
                np.testing.assert_array_equal(np.asarray(image().decode(value)[0]), LEFT_RED)

    def test_list_of_one_image_is_that_image(self) -> None:
        alone = np.asarray(image().decode(LEFT_RED)[0])
        np.testing.assert_array_equal(np.asarray(image().decode([LEFT_RED])[0]), alone)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, orientation: int) -> None:
        upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
        # The pixels that a camera stores with this orientation.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.T,
            6: np.rot90(upright),
            7: upright[::-1, ::-1].T,
            8: np.rot90(upright, -1),
        }[orientation]
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        data = encode(PIL.Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
        np.testing.assert_array_equal(np.asarray(image(channels=1).decode(data)[0]), upright)


class TestPreprocessing:
    @pytest.mark.parametrize(
        ("resize", "first_row", "middle_row"),
        [
            ("stretch", [255, 255, 0, 0], [255, 255, 0, 0]),
            ("crop", [255, 255, 0, 0], [255, 255, 0, 0]),
            ("pad", [0, 0, 0, 0], [255, 255, 0, 0]),
        ],
    )
    def test_resize_policy(self, resize: str, first_row: list[int], middle_row: list[int]) -> None:
        red = pixels(image(resize=resize), LEFT_RED)[0]
        edges = [0, 1, -2, -1]
        np.testing.assert_allclose(red[0, edges], first_row, atol=1)
        np.testing.assert_allclose(red[4, edges], middle_row, atol=1)

    def test_crop_keeps_the_middle(self) -> None:
        wide = np.zeros((8, 24), np.uint8)
        wide[:, 8:16] = 200
        np.testing.assert_array_equal(pixels(image(resize="crop"), wide), 200)

    @pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 2_000), (2_000, 1), (3, 5)])
    def test_image_of_any_shape_is_resized(self, resize: str, shape: tuple[int, int]) -> None:
        resized = pixels(image(resize=resize, size=(6, 10)), np.full(shape, 200, np.uint8))
        assert resized.shape == (3, 6, 10)
        assert resized.max() == pytest.approx(200, abs=1)

    def test_mean_and_std_are_per_channel(self) -> None:
        kind = image(mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 0.25])
        normalised = kind.preprocess(kind.decode(np.full((8, 8, 3), 255, np.uint8)))["pixels"]
        np.testing.assert_allclose(normalised[:, 0, 0], [1.0, 1.0, 0.0])

    @pytest.mark.parametrize(("channels", "order"), [(1, "rgb"), (3, "rgb"), (3, "bgr")])
    def test_every_value_is_normalised_exactly(self, channels: int, order: str) -> None:
        kind = image(channels=channels, channel_order=order, size=(16, 16), mean=[0.3], std=[0.7])
        values = np.arange(256, dtype=np.uint8).reshape(16, 16)
        picture = np.stack([values, values[::-1], values.T], axis=2)
        planes = [values] if channels == 1 else [picture[..., c] for c in range(3)]
        planes = planes[::-1] if order == "bgr" else planes
        expected = (np.stack(planes) / np.float32(255) - np.float32(0.3)) / np.float32(0.7)
        source = values if channels == 1 else picture
        normalised = kind.preprocess(kind.decode(source))["pixels"]
        assert normalised.dtype == np.float32
        np.testing.assert_array_equal(normalised, expected)

    @pytest.mark.parametrize(
        "config", [{"mean": [0.5, 0.5]}, {"std": [0.0]}, {"channels": 2}, {"sise": [8, 8]}]
    )
    def test_invalid_settings_are_rejected(self, config: dict[str, Any]) -> None:
        with pytest.raises(pydantic.ValidationError, match=next(iter(config))):
            image(**config)


class TestFrames:
    @pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        ("frames", "levels"), [(1, [100]), (3, [20, 100, 180]), (5, [20, 60, 100, 140, 180])]
    )
    def test_frames_of_an_animation_are_evenly_spaced(
        self, form: str, frames: int, levels: list[int]
    ) -> None:
        actual = pixels(image(frames=frames), animation([20, 60, 100, 140, 180], form))
        assert actual.shape == (frames, 3, *SIZE)
        np.testing.assert_allclose(actual[:, 0, 0, 0], levels, atol=2)

    def test_frames_of_a_list_are_evenly_spaced_or_repeated(self) -> None:
        values = [encode(PIL.Image.new("L", SIZE, level)) for level in (10, 20, 30, 40)]
        assert pixels(image(frames=2), values)[:, 0, 0, 0] == pytest.approx([20, 40])
        assert pixels(image(frames=2), values[:1])[:, 0, 0, 0] == pytest.approx([10, 10])
        assert pixels(image(frames=2), values[0])[:, 0, 0, 0] == pytest.approx([10, 10])

    def test_animation_without_frames_is_its_first_frame(self) -> None:
        assert pixels(image(), animation([20, 180], "GIF"))[0, 0, 0] == pytest.approx(20)


@pytest.mark.parametrize(
    ("value", "blank"),
    [
        (np.zeros((8, 8), np.uint8), True),
        (np.full((8, 8, 3), (10, 200, 90), np.uint8), True),
        (np.array([[100, 102]], np.uint8), True),
        (np.array([[100, 103]], np.uint8), False),
        (LEFT_RED, False),
        (PIL.Image.new("RGBA", SIZE, (10, 20, 30, 0)), True),
    ],
)
def test_blank_image_is_a_warning(value: Any, blank: bool) -> None:
    kind = image()
    assert kind.warnings(kind.decode(value)) == (("the image is blank",) if blank else ())


def test_clip_is_blank_only_if_all_frames_are_blank() -> None:
    kind = image(frames=2)
    assert kind.warnings(kind.decode([np.zeros(SIZE, np.uint8), LEFT_RED])) == ()


def test_jpeg_is_decoded_at_reduced_size_with_similar_pixels() -> None:
    ramp = np.add.outer(np.arange(512), np.arange(768)) // 6
    photograph = PIL.Image.fromarray(ramp.astype(np.uint8)).convert("RGB")
    kind = Image("view", {"size": (64, 32), **RAW})
    jpeg = encode(photograph, "JPEG", quality=95)
    [reduced] = kind.decode(jpeg)
    [full] = kind.decode(encode(photograph))
    assert full.size == (768, 512)
    assert reduced.size == (192, 128)
    assert np.abs(pixels(kind, jpeg) - pixels(kind, encode(photograph))).max() < 3
