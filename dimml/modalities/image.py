"""Images: from an image or a list of frames to normalised pixels."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import pydantic

from dimml.errors import InputError
from dimml.modalities import formats
from dimml.modalities.base import Arrays, Kind
from dimml.modalities.decoders import DecodeError, NoTrackError, OverLimitError
from dimml.modalities.pixels import Pictures, evenly_spaced, extrema, flatten, is_camera_raw
from dimml.modalities.resizing import ResizeConfig, resize_image
from dimml.modalities.video import evenly_spaced_moments, read_frames

# Pillow warns about large images, which `limits.pixels` handles, and about damaged metadata. The
# filter is set once, because `warnings.catch_warnings` is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")

BLANK_RANGE = 2
"""An image is blank if the 8-bit values of each channel differ by at most this much."""

MAX_SCANS = 100
"""Scans of a progressive JPEG. Each scan covers the whole image, and encoders write about ten."""

MAX_INTERPRETED_BYTES = 1_000_000
"""Bytes of a file that Pillow decodes in Python, a thousand times slower than other files."""

CLIP_PICTURES = 8
"""All frames of a clip together may have the pixels of this many images of maximum size."""

REDUCING_GAP = 2
"""Pillow decodes a JPEG at 1/8, 1/4 or 1/2 of its size if that is at least this many times the
target size. Large photographs decode several times faster, without a visible difference."""

_INTERPRETED_DECODERS = frozenset({"ppm_plain", "ppm", "bmp_rle"})
_START_OF_SCAN = b"\xff\xda"

# The decoders of Pillow raise all of these errors for damaged files.
_DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError),
    *(MemoryError, RuntimeError, struct.error, zlib.error),
)


class ImageConfig(ResizeConfig):
    """The preprocessing of images.

    Attributes:
        channels: 3 (RGB) or 1 (grey).
        mean: Mean of pixel values in 0..1, one per channel or one for all.
        std: Standard deviation of pixel values, one per channel or one for all.
        channel_order: `rgb` or `bgr`.
        frames: None for one image. T for a list of images, an animation or a video, of which T
            evenly spaced frames are used. The encoder averages their features.
    """

    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[Annotated[float, pydantic.Field(gt=0)], ...] = (0.5,)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    frames: Annotated[int, pydantic.Field(ge=1, le=64)] | None = None

    @pydantic.model_validator(mode="after")
    def _check_channels(self) -> ImageConfig:
        for key in ("mean", "std"):
            if len(getattr(self, key)) not in (1, self.channels):
                raise ValueError(f"{key} must hold 1 or {self.channels} values")
        return self


class Image(Kind):
    """Images in any of `formats.PICTURE_FORMATS`.

    Graph input: `pixels`, float32 [N, channels, height, width], or with `frames`
    [N, frames, channels, height, width].
    """

    Config = ImageConfig
    config: ImageConfig
    input_names = ("pixels",)

    @property
    def max_files(self) -> int:
        return 1 if self.config.frames is None else self.limits.frames

    def accepts(self) -> str:
        video = f", or a video: {formats.MEDIA_VIDEOS}" if self.config.frames else ""
        return f"a file: {formats.picture_formats()}{video if formats.is_installed('av') else ''}"

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        config = self.config
        self._mode = "L" if config.channels == 1 else "RGB"
        self._mean = np.asarray(config.mean, np.float32).reshape(-1, 1, 1)
        self._std = np.asarray(config.std, np.float32).reshape(-1, 1, 1)

    def decode(self, value: Any) -> Pictures:
        """Decode a value to one image, or to `frames` images, upright and without transparency.

        Args:
            value: See `Kind.decode`. An array is uint8 [height, width] or [height, width, 3 or 4].
                With `frames` set, the value can also be a list of values, an animation or a video.
        """
        value = self.only_value(value)
        if not isinstance(value, list | tuple):
            return self._open(value)
        if self.config.frames is None:
            raise self.error("unreadable", f"expected one image, got a list of {len(value)}")
        self._check_frames(len(value))
        if not value or any(item is None for item in value):
            raise self.error("unreadable", "the list of frames is empty or has an empty entry")
        frames = Pictures()
        for index in evenly_spaced(len(value), self.config.frames):
            frames.append(self._open(value[index], is_entry=True)[0])
            self._check_clip(sum(frame.width * frame.height for frame in frames))
        return frames

    def preprocess(self, raw: list[PIL.Image.Image]) -> Arrays:
        """Return resized and normalised pixels, see `Image` for the shape."""
        return self.expand(self.compact(raw))

    def compact(self, raw: list[PIL.Image.Image]) -> Arrays:
        """Return resized pixels as bytes, a quarter of the size of normalised ones."""
        frames = [self._channels(resize_image(image, self.config)) for image in raw]
        pixels = frames[0] if self.config.frames is None else np.stack(frames)
        # In the order of the channels, arithmetic takes a tenth of the time.
        return {"pixels": np.ascontiguousarray(pixels)}

    def expand(self, arrays: Arrays) -> Arrays:
        pixels = arrays["pixels"].astype(np.float32)
        pixels /= np.float32(255)
        pixels -= self._mean
        pixels /= self._std
        return {"pixels": pixels}

    def warnings(self, raw: Pictures) -> tuple[str, ...]:
        blank = all(high - low <= BLANK_RANGE for image in raw for low, high in extrema(image))
        return (*raw.notes, *(["the image is blank"] if blank else []))

    def memory(self, raw: list[PIL.Image.Image]) -> int:
        return sum(4 * image.width * image.height for image in raw)

    def example(self) -> bytes:
        height, width = self.config.size
        ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
        file = io.BytesIO()
        PIL.Image.fromarray(ramp).save(file, "PNG")
        return file.getvalue()

    def _open(self, value: Any, is_entry: bool = False) -> Pictures:
        if isinstance(value, np.ndarray):
            value = self._from_array(value)
        if isinstance(value, PIL.Image.Image):
            return Pictures([flatten(value, self._mode)] * (self.config.frames or 1))
        data = self.read_bytes(value)
        found = formats.recognise(data)
        if self.config.frames and found and found.may_be_video and formats.is_installed("av"):
            if not is_entry:
                return self._read_video(data, found.demuxer, self.config.frames)
            message = f"a list holds pictures, but an entry is {found.name}; send a video alone"
            raise self.error("unsupported_type", message)
        accepted = formats.PICTURE_FORMATS
        if found == formats.HEIC and formats.register_heif():
            accepted = ("HEIF",)
            if formats.heic_pixels(data) > self.limits.pixels:
                raise self._too_many_pixels()
        try:
            image = PIL.Image.open(io.BytesIO(data), formats=accepted)
            self._check_effort(image, data)
            # `flatten` may swap width and height, so both must be large enough.
            side = REDUCING_GAP * self._largest_side()
            image.draft(None, (side, side))
            return self._frames(image)
        except PIL.UnidentifiedImageError as error:
            raise self._unsupported(found) from error
        except PIL.Image.DecompressionBombError as error:
            raise self._too_many_pixels() from error
        except _DECODE_ERRORS as error:
            raise self.error("unreadable", f"cannot decode the image: {error}") from error

    def _read_video(self, data: bytes, demuxer: str, count: int) -> Pictures:
        """Decode the pictures of a video at evenly spaced moments."""
        try:
            pictures, note = read_frames(
                data, demuxer, self.limits, partial(evenly_spaced_moments, count), self._shrink
            )
        except NoTrackError as error:
            raise self.absent("the recording has no pictures") from error
        except OverLimitError as error:
            raise self.error("too_large", error.reason) from error
        except DecodeError as error:
            raise self.error(
                "unreadable", f"cannot decode the video ({error.reason}); convert it to MP4 again"
            ) from error
        frames = Pictures(pictures)
        self._check_clip(sum(frame.width * frame.height for frame in frames))
        frames.notes = (note,) if note else ()
        return frames

    def _shrink(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """Return a picture of a video in fewer pixels, but more than the encoder reads."""
        factor = min(picture.size) // (REDUCING_GAP * self._largest_side())
        return flatten(picture.reduce(factor) if factor > 1 else picture, self._mode)

    def _unsupported(self, found: formats.Format | None) -> InputError:
        heic = ", HEIC" if formats.is_installed("pillow_heif") else ""
        takes_video = self.config.frames is not None
        if self.shares_files and found and found.content == "recording" and not found.may_be_video:
            raise self.absent(f"the file is {found.name}, which has no pictures")
        video = f", and as videos {formats.MEDIA_VIDEOS}" if takes_video else ""
        accepted = f"{', '.join(formats.PICTURE_FORMATS)}{heic}{video} are accepted"
        if found is None:
            return self.error("unsupported_type", f"not an image file; {accepted}")
        message = formats.explain_unsupported(found, "picture", accepted, takes_video)
        return self.error("unsupported_type", message)

    def _largest_side(self) -> int:
        """Return the largest side that the image is resized to, before its middle is cut out."""
        before_crop = self.config.resize_to or 1
        sides = (before_crop,) if isinstance(before_crop, int) else before_crop
        return max(*self.config.size, *sides)

    def _check_effort(self, image: PIL.Image.Image, data: bytes) -> None:
        """Reject a file that takes much longer to decode than its number of pixels suggests."""
        if image.width * image.height > self.limits.pixels:
            raise self._too_many_pixels(image)
        if is_camera_raw(image):
            # Pillow would decode the small preview that the file begins with.
            raise self._unsupported(formats.CAMERA_RAW)
        if "progressive" in image.info and data.count(_START_OF_SCAN) > MAX_SCANS:
            raise self.error(
                "too_large",
                f"a progressive JPEG of over {MAX_SCANS} scans; save it as a baseline JPEG",
            )
        decoders = {tile[0] for tile in getattr(image, "tile", ())}
        if decoders & _INTERPRETED_DECODERS and len(data) > MAX_INTERPRETED_BYTES:
            raise self.error(
                "too_large",
                f"this variant of {image.format} is slow to decode and over its limit of "
                f"{MAX_INTERPRETED_BYTES:,} bytes; convert it to PNG",
            )

    def _frames(self, image: PIL.Image.Image) -> Pictures:
        if self.config.frames is None:
            return Pictures([flatten(image, self._mode)])
        available = getattr(image, "n_frames", 1)
        self._check_frames(available)
        # Pillow decodes all frames before the requested frame.
        self._check_clip(image.width * image.height * available)
        frames = Pictures()
        for index in evenly_spaced(available, self.config.frames):
            image.seek(index)
            frames.append(flatten(image, self._mode))
        return frames

    def _check_frames(self, available: int) -> None:
        if available > self.limits.frames:
            raise self.error(
                "too_large", f"{available:,} frames: over the limit of {self.limits.frames:,}"
            )

    def _check_clip(self, pixels: int) -> None:
        if pixels > CLIP_PICTURES * self.limits.pixels:
            raise self.error(
                "too_large",
                "the frames are over the limit of "
                f"{CLIP_PICTURES * self.limits.pixels:,} pixels in total",
            )

    def _too_many_pixels(self, image: PIL.Image.Image | None = None) -> InputError:
        size = f"{image.width} x {image.height} pixels: " if image else ""
        return self.error("too_large", f"{size}over the limit of {self.limits.pixels:,} pixels")

    def _from_array(self, value: np.ndarray) -> PIL.Image.Image:
        is_picture = value.ndim == 2 or value.shape[2:] in ((3,), (4,))
        if value.dtype != np.uint8 or not value.size or not is_picture:
            raise self.error(
                "unreadable",
                "an array must be uint8 [height, width] or [height, width, 3 or 4] and not empty, "
                f"got {value.dtype} {list(value.shape)}",
            )
        if value.shape[0] * value.shape[1] > self.limits.pixels:
            raise self._too_many_pixels()
        return PIL.Image.fromarray(value)

    def _channels(self, image: PIL.Image.Image) -> np.ndarray:
        """Return the bytes of an image [channels, height, width]."""
        values = np.asarray(image)
        values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
        return values[::-1] if self.config.channel_order == "bgr" else values
