"""Optical flow: from pairs of pictures, one for each direction of motion, to two channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import PIL.Image
import pydantic

from dimml.modalities import formats
from dimml.modalities.base import Arrays, Kind
from dimml.modalities.image import Image
from dimml.modalities.pixels import Pictures, evenly_spaced
from dimml.modalities.resizing import ResizeConfig


class FlowConfig(ResizeConfig):
    """The preprocessing of optical flow.

    Attributes:
        frames: T, the pairs that are used: the T in the middle of those given, one after the
            other, because each shows the motion from one picture to the next.
        mean: Mean of pixel values in 0..1, in which a grey of 0.5 is no motion.
        std: Standard deviation of pixel values.
    """

    frames: Annotated[int, pydantic.Field(ge=1, le=32)] = 10
    mean: float = 0.5
    std: Annotated[float, pydantic.Field(gt=0)] = 0.5


class Flow(Kind):
    """Optical flow as pairs of grey pictures: u, the motion to the right, and v, the motion down.

    Graph input: `flow`, float32 [N, frames, 2, height, width].
    """

    Config = FlowConfig
    config: FlowConfig
    input_names = ("flow",)

    @property
    def max_files(self) -> int:
        return 2 * self.limits.frames

    def accepts(self) -> str:
        return f"pairs of pictures in the order u, v, u, v and so on: {formats.picture_formats()}"

    def _setup(self, assets: Mapping[str, bytes]) -> None:
        shared = self.config.model_dump(exclude={"frames", "mean", "std"})
        normal = {"mean": (self.config.mean,), "std": (self.config.std,)}
        self._pictures = Image(
            self.name,
            {**shared, **normal, "channels": 1, "frames": 2 * self.config.frames},
            limits=self.limits,
        )

    def decode(self, value: Any) -> Pictures:
        """Decode the T pairs in the middle of a list, and return their pictures u, v, u, v, ….

        Args:
            value: A list of pairs, or a list of pictures in the order u, v, u, v and so on, each as
                `Kind.decode` takes it.
        """
        pictures = self._flatten(value)
        available = len(pictures) // 2
        count = self.config.frames
        first = max(0, (available - count) // 2)
        pairs = range(first, first + count)
        chosen = pairs if available >= count else evenly_spaced(available, count)
        raw = self._pictures.decode([pictures[2 * n + side] for n in chosen for side in (0, 1)])
        for u, v in zip(raw[::2], raw[1::2], strict=True):
            if u.size != v.size:
                sizes = " and ".join(f"{p.width} x {p.height}" for p in (u, v))
                raise self.error("unreadable", f"u and v of a pair differ in size: {sizes} pixels")
        return raw

    def _flatten(self, value: Any) -> list[Any]:
        """Return the pictures of a value in the order u, v, u, v and so on."""
        if not isinstance(value, list | tuple):
            raise self.error("unreadable", f"expected {self.accepts()}; got one file")
        pairs = [item for item in value if isinstance(item, list | tuple)]
        is_nested = len(pairs) == len(value)
        if is_nested and all(len(pair) == 2 for pair in pairs):
            value = [picture for pair in pairs for picture in pair]
        elif pairs:
            raise self.error("unreadable", "each entry of a list of pairs must have two pictures")
        if not value or len(value) % 2:
            raise self.error(
                "unreadable",
                f"expected pairs of pictures, got {len(value)}; send u and v of each moment, in "
                "this order",
            )
        if len(value) > self.max_files:
            raise self.error(
                "too_large", f"{len(value):,} pictures: over the limit of {self.max_files:,}"
            )
        return list(value)

    def preprocess(self, raw: Pictures) -> Arrays:
        """Return the resized and normalised pairs [frames, 2, height, width]."""
        return self.expand(self.compact(raw))

    def compact(self, raw: Pictures) -> Arrays:
        pixels = self._pictures.compact(raw)["pixels"]
        return {"flow": pixels.reshape(-1, 2, *pixels.shape[-2:])}

    def expand(self, arrays: Arrays) -> Arrays:
        return {"flow": self._pictures.expand({"pixels": arrays["flow"]})["pixels"]}

    def warnings(self, raw: Pictures) -> tuple[str, ...]:
        is_blank = bool(self._pictures.warnings(raw))
        return ("the pictures of the flow are blank",) if is_blank else ()

    def memory(self, raw: list[PIL.Image.Image]) -> int:
        return self._pictures.memory(raw)

    def example(self) -> list[np.ndarray]:
        height, width = self.config.size
        ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
        return [ramp, ramp] * self.config.frames
