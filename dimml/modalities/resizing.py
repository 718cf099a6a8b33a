"""Resizing of images to the size that an encoder reads."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import PIL.Image
import PIL.ImageOps
import pydantic

from dimml.modalities.base import KindConfig

Side: TypeAlias = Annotated[int, pydantic.Field(ge=1, le=4096)]
ResampleName: TypeAlias = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
MAX_ASPECT_RATIO = 16
"""An image that is longer than this is first cut to its middle, because resizing its shorter side
would give an image of any size."""

RESAMPLING: dict[str, PIL.Image.Resampling] = {
    filter.name.lower(): filter for filter in PIL.Image.Resampling
}
"""Name to filter of Pillow."""


class ResizeConfig(KindConfig):
    """The resizing of pictures.

    Attributes:
        size: Height and width in pixels.
        resize: `stretch` to the size, `crop` the middle in its aspect ratio, or `pad` to it.
        resize_to: With `crop`, the size to which the image is resized before its middle is cut
            out: an integer is the shorter side, a pair is height and width. None is the smallest
            size that covers `size`.
        resample: The filter of the resizing, as Pillow names it.
    """

    size: tuple[Side, Side] = (224, 224)
    resize: Literal["stretch", "crop", "pad"] = "crop"
    resize_to: Side | tuple[Side, Side] | None = None
    resample: ResampleName = "bicubic"

    @pydantic.model_validator(mode="after")
    def _check_resizing(self) -> ResizeConfig:
        if self.resize_to is not None and self.resize != "crop":
            raise ValueError(f"resize_to needs `resize: crop`, but resize is {self.resize}")
        return self


def resize_image(image: PIL.Image.Image, config: ResizeConfig) -> PIL.Image.Image:
    """Resize an image to the size of a configuration."""
    resize_to, resample = config.resize_to, RESAMPLING[config.resample]
    height, width = config.size
    if resize_to is not None:
        if isinstance(resize_to, int):
            image = _cut_long(image)
            target = _shorter_side(image, resize_to)
        else:
            target = (resize_to[1], resize_to[0])
        return _cut_middle(image.resize(target, resample), width, height)
    if image.size == (width, height):
        return image
    if config.resize == "crop":
        return PIL.ImageOps.fit(image, (width, height), resample)
    if config.resize == "pad":
        return _pad(image, width, height, resample)
    return image.resize((width, height), resample)


def _cut_long(image: PIL.Image.Image) -> PIL.Image.Image:
    longest = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) <= longest:
        return image
    return _cut_middle(image, min(image.width, longest), min(image.height, longest))


def _shorter_side(image: PIL.Image.Image, side: int) -> tuple[int, int]:
    """Return (width, height) with this shorter side and the aspect ratio of the image."""
    # The longer side is rounded down, as torchvision and transformers do.
    if image.width <= image.height:
        return side, max(1, int(side * image.height / image.width))
    return max(1, int(side * image.width / image.height)), side


def _cut_middle(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    """Cut out the middle; where the image is too small, fill with black."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _pad(
    image: PIL.Image.Image, width: int, height: int, resample: PIL.Image.Resampling
) -> PIL.Image.Image:
    """Fit an image into a black image. `PIL.ImageOps.pad` fails for very thin images."""
    scale = min(width / image.width, height / image.height)
    inner = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample
    )
    padded = PIL.Image.new(image.mode, (width, height))
    padded.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return padded
