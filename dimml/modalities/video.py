"""Pictures of a video at chosen moments, decoded by PyAV from memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import PIL.Image

from dimml.modalities.base import Limits
from dimml.modalities.containers import (
    checked_context,
    declared_seconds,
    first_track,
    import_av,
    missing_end,
    open_container,
)
from dimml.modalities.decoders import DecodeError, OverLimitError

MAX_DECODED_PIXELS = 8_000_000_000
"""Pixels that one video may take to decode, about half a minute of one core. The pictures between
a key frame and a wanted moment must be decoded too."""

SEEK_SECONDS = 10.0
"""A moment farther ahead than this is reached through the index of the container."""

_CODECS = (
    *("h264", "hevc", "mpeg4", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "theora"),
    *("flv", "h263", "h263i", "vp6", "vp6f", "vp6a", "flashsv", "mjpeg", "mpeg1video"),
    *("mpeg2video", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "wmv3", "vc1"),
    *("dvvideo", "prores", "svq1", "svq3", "cinepak", "rv10", "rv20", "rv30", "rv40"),
)
"""FFmpeg's decoders of pictures that a file can reach."""

Moments = Callable[[float], Sequence[float]]
"""Returns the wanted moments in ascending order, in seconds, of a video of a length in seconds."""

Convert = Callable[[PIL.Image.Image], PIL.Image.Image]


def read_frames(
    data: bytes,
    demuxer: str,
    limits: Limits,
    moments: Moments,
    convert: Convert = lambda picture: picture,
) -> tuple[list[PIL.Image.Image], str]:
    """Return the pictures that a video shows at some moments, upright and in RGB.

    Args:
        data: The container.
        demuxer: FFmpeg's name of its format.
        limits: Limits on the pixels of a picture and on the seconds of the video.
        moments: Called again if the video ends before its declared end.
        convert: Is applied to each picture as soon as it is decoded.

    Returns:
        The pictures, and a note for the user if the file is damaged, else "".

    Raises:
        NoTrackError: If the container has no video track.
        OverLimitError: If the video exceeds a limit.
        DecodeError: If no picture can be decoded.
    """
    with open_container(data, demuxer, _CODECS) as container:
        track = first_track(container, "video", "pictures")
        reader = _Reader(container, track, limits)
        # The declared length of a container is that of its longest track.
        declared = declared_seconds(container, track) or (container.duration or 0) / 1e6
        seconds = declared or reader.scan()
        reader.check_length(seconds)
        pictures = reader.pictures(moments(seconds), convert)
        if len(pictures) == len(moments(seconds)) and not reader.damage:
            return pictures, ""
        # The file ends before a moment, so the moments are chosen from the part that it has.
        end = reader.end or 0.0
        damage = reader.damage or missing_end(container, track, demuxer, end)
        pictures = reader.pictures(moments(end), convert)
        if len(pictures) < len(moments(end)):
            raise DecodeError(damage or "it has no picture that can be decoded")
        note = f"the file is damaged ({damage}); only the first {end:.1f} s were read"
        return pictures, note if damage else ""


def evenly_spaced_moments(count: int, seconds: float) -> list[float]:
    """Return the middle of each of `count` equal parts of a video."""
    return [(part + 0.5) * seconds / count for part in range(count)]


class _Frame(NamedTuple):
    """A decoded picture, and the seconds between which it is shown."""

    picture: Any
    start: float
    end: float


class _Reader:
    """Decodes the pictures of one track, and counts what that takes.

    Attributes:
        end: The end of the last picture in seconds, None as long as it was not reached.
        damage: Why decoding ended early, "" if it did not.
    """

    def __init__(self, container: Any, track: Any, limits: Limits) -> None:
        self.end: float | None = None
        self.damage = ""
        self._container, self._track, self._limits = container, track, limits
        self._pixels = 0
        context = checked_context(track, _CODECS, "video")
        self._check_size(context.width, context.height)
        # The size can change in the middle of a video.
        context.options = {"max_pixels": str(limits.pixels)}

    def scan(self) -> float:
        """Decode the whole video, and return its length in seconds."""
        for frame in self._frames():
            self.check_length(frame.start)
        return self.end or 0.0

    def check_length(self, seconds: float) -> None:
        if seconds > self._limits.seconds:
            limit = f"{self._limits.seconds:g} s"
            raise OverLimitError(f"the video lasts {seconds:,.0f} s: over the limit of {limit}")

    def pictures(self, moments: Sequence[float], convert: Convert) -> list[PIL.Image.Image]:
        """Return the picture shown at each moment, up to the first moment behind the end."""
        pictures: list[PIL.Image.Image] = []
        frames = self._frames_from(0.0)
        shown = next(frames, None)
        converted: _Frame | None = None
        for moment in moments:
            if shown and moment > shown.end + SEEK_SECONDS:
                frames = self._frames_from(moment)
                shown = next(frames, None)
            while shown and shown.end <= moment:
                shown = next(frames, None)
            if shown is None:
                break
            if shown is not converted:
                picture = convert(_upright(shown.picture))
                converted = shown
            pictures.append(picture)
        return pictures

    def _frames_from(self, moment: float) -> Iterator[_Frame]:
        """Yield the pictures from one on that is shown at a moment or before."""
        if self._pixels and moment:
            start = (moment + self._start) / float(self._track.time_base)
            self._container.seek(round(start), stream=self._track)
        elif self._pixels:
            self._container.seek(0)
        frames = self._frames()
        first = next(frames, None)
        if moment and (first is None or first.start > moment):
            # The index of the container is missing or wrong.
            yield from self._frames_from(0.0)
        elif first:
            yield first
            yield from frames

    def _frames(self) -> Iterator[_Frame]:
        """Yield the pictures from the present position on, each shown until the next begins."""
        previous: Any = None
        start = 0.0
        for picture in self._decoded():
            # Some containers store the order of pictures rather than their times.
            known = picture.time is not None
            following = picture.time - self._start if known else start + self._frame_seconds
            if previous and following > start:
                yield _Frame(previous, start, following)
            elif not previous and not known:
                following = 0.0
            previous, start = picture, following
        if previous:
            seconds = float((previous.duration or 0) * self._track.time_base)
            self.end = start + (seconds or self._frame_seconds)
            yield _Frame(previous, start, self.end)

    def _decoded(self) -> Iterator[Any]:
        try:
            for picture in self._container.decode(self._track):
                self._check_size(picture.width, picture.height)
                self._pixels += picture.width * picture.height
                if self._pixels > MAX_DECODED_PIXELS:
                    raise OverLimitError(
                        f"the video takes more than {MAX_DECODED_PIXELS:,} pixels to decode; cut "
                        "it, or convert it to a smaller size"
                    )
                yield picture
        except import_av().FFmpegError as error:
            self.damage = getattr(error, "strerror", None) or str(error)

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.pixels:
            limit = f"{self._limits.pixels:,} pixels"
            raise OverLimitError(f"{width} x {height} pixels: over the limit of {limit}")

    @property
    def _start(self) -> float:
        return float((self._track.start_time or 0) * self._track.time_base)

    @property
    def _frame_seconds(self) -> float:
        return 1.0 / float(self._track.average_rate or 25)


def _upright(picture: Any) -> PIL.Image.Image:
    """Return a picture in RGB, rotated as the container says."""
    image: PIL.Image.Image = picture.to_image()
    # Phones store a portrait as a rotated landscape.
    return image.rotate(picture.rotation, expand=True) if picture.rotation else image
