"""Pixels of images: from a file to what the family's own processor gives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers

from dimml.modalities import KINDS
from tests.conftest import PretrainedFolder
from tests.pretrained_folders import IMAGE_PROCESSORS
from train.pretrained import read_model
from train.recipe import ModalityConfig

TOLERANCE = 1e-3
SHAPES = {"landscape": (61, 103), "portrait": (140, 90), "tiny": (5, 7), "exact": None}
DINOV3 = ["dinov3_vit", "dinov3_convnext"]


def host_pixels(folder: Path, png: bytes, **preprocessing: Any) -> np.ndarray:
    encoder = {"pretrained": str(folder)}
    modality = ModalityConfig(kind="image", preprocessing=preprocessing, encoder=encoder)
    model = read_model("photo", modality)
    kind = KINDS["image"]("photo", dict(model.preprocessing), model.assets)
    pixels: np.ndarray = kind.preprocess(kind.decode(png))["pixels"]
    return pixels


def picture(shape: tuple[int, int]) -> PIL.Image.Image:
    """Return an RGB image of smooth colours, edges and noise."""
    generator = np.random.default_rng(0)
    height, width = shape
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, 255 * (rows > columns)], axis=2)
    noisy = smooth + generator.normal(0, 25, smooth.shape)
    return PIL.Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def png_of(image: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def size_of(model_type: str) -> tuple[int, int]:
    """Return the size of the images that a processor gives."""
    settings = IMAGE_PROCESSORS[model_type][1]
    size = settings["size"]
    if "crop_size" in settings:
        size = settings["crop_size"]
    side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
    return side, side


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model_type", [name for name in IMAGE_PROCESSORS if name not in DINOV3])
def test_pixels_equal_those_of_the_processor(
    pretrained_folder: PretrainedFolder, model_type: str, shape: str
) -> None:
    folder = pretrained_folder("image", model_type)
    image = picture(SHAPES[shape] or size_of(model_type))
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    pixels = host_pixels(folder, png_of(image))
    assert pixels.shape == (3, *size_of(model_type))
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model_type", DINOV3)
def test_pixels_equal_those_of_dinov3_up_to_rounding(
    pretrained_folder: PretrainedFolder, model_type: str, shape: str
) -> None:
    folder = pretrained_folder("image", model_type)
    size = size_of(model_type)
    image = picture(SHAPES[shape] or size)
    # The processor needs torchvision, whose resizing of floats is this function. It scales to 0..1
    # before it resizes. Pillow resizes 8-bit values in two passes and rounds after each, so that a
    # value can be off by half a step per pass; fixed-point weights add a little.
    scaled = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    resized = torch.nn.functional.interpolate(scaled, size, mode="bilinear", antialias=True)[0]
    settings = transformers.image_processing_utils.BaseImageProcessor.get_image_processor_dict(
        folder
    )[0]
    mean, std = (np.reshape(settings[key], (3, 1, 1)) for key in ("image_mean", "image_std"))
    difference = host_pixels(folder, png_of(image)) - (resized.numpy() - mean) / std
    step = 1 / 255 / std
    limit = TOLERANCE if shape == "exact" else 1.1 * step
    assert (np.abs(difference) <= limit).all()
    # Rounding has no direction: differences cancel out over an image.
    assert abs((difference / step).mean()) < 0.05


def test_processor_that_keeps_the_aspect_ratio_is_cropped_to_a_square(
    pretrained_folder: PretrainedFolder,
) -> None:
    folder = pretrained_folder("image", "mobilenet_v2")
    wide = host_pixels(folder, png_of(picture((64, 200))), size=[48, 80])
    assert wide.shape == (3, 48, 80)


def test_exif_orientation_is_applied_before_the_processor(
    pretrained_folder: PretrainedFolder,
) -> None:
    folder = pretrained_folder("image", "vit")
    image = picture((40, 60))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    upright = image.transpose(PIL.Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(
        host_pixels(folder, file.getvalue()), host_pixels(folder, png_of(upright))
    )
