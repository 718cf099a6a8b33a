"""Pictures of a video at chosen moments, decoded by PyAV from memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import PIL.Image

from dimml.modalities.base import Limits
from dimml.modalities.containers import (
    MAX_ALLOCATION_BYTES,
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

_DECLARE_LENGTH = frozenset({"mov", "matroska", "asf", "avi", "flv"})
"""The containers whose header has the length. FFmpeg estimates that of others, often too short."""

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
    with ExitStack() as stack:
        reader = _Reader(data, demuxer, limits, stack)
        seconds = reader.declared or reader.scan()
        reader.check_length(seconds)
        pictures = reader.pictures(moments(seconds), convert)
        if len(pictures) == len(moments(seconds)) and not reader.damage:
            return pictures, ""
        # The file ends before a moment, so the moments are chosen from the part that it has.
        end = reader.end or 0.0
        damage = reader.damage or reader.missing_end()
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

    Args:
        data, demuxer, limits: See `read_frames`.
        stack: Closes the container.

    Attributes:
        declared: The length of the track in seconds by the header, 0 if that does not say it.
        end: The end of the last picture in seconds, None as long as it was not reached.
        damage: Why decoding ended early, "" if it did not.
    """

    def __init__(self, data: bytes, demuxer: str, limits: Limits, stack: ExitStack) -> None:
        self.end: float | None = None
        self.damage = ""
        self._data, self._demuxer, self._limits, self._stack = data, demuxer, limits, stack
        self._pixels = 0
        self._others_end = 0.0
        self._open()
        self.declared = 0.0
        if demuxer in _DECLARE_LENGTH:
            # The length of a container is that of its longest track.
            length = (self._container.duration or 0) / 1e6
            self.declared = declared_seconds(self._container, self._track) or length

    def _open(self) -> None:
        """Open the container, again if it is open: not every format can be rewound."""
        self._stack.close()
        opened = open_container(self._data, self._demuxer, _CODECS)
        self._container = self._stack.enter_context(opened)
        self._track = first_track(self._container, "video", "pictures")
        context = checked_context(self._track, _CODECS, "video")
        self._check_size(context.width, context.height)
        # The size can change in the middle of a video.
        context.options = {"max_pixels": str(self._limits.pixels)}
        self._is_rewound = True

    def missing_end(self) -> str:
        """Return what all tracks together lack of the declared length, "" if nothing."""
        declared = (self._container.duration or 0) / 1e6 if self.declared else 0.0
        return missing_end(declared, max(self.end or 0.0, self._others_end))

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
        if moment:
            start = (moment + self._start) / float(self._track.time_base)
            self._container.seek(round(start), stream=self._track)
        elif not self._is_rewound:
            self._open()
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
        self._is_rewound = False
        try:
            for packet in self._container.demux():
                if packet.stream.index == self._track.index:
                    for picture in packet.decode():
                        self._count(picture.width, picture.height)
                        yield picture
                elif packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._others_end = max(self._others_end, end)
        except import_av().FFmpegError as error:
            if error.errno == errno.ENOMEM:
                raise OverLimitError(
                    f"a picture takes more than {MAX_ALLOCATION_BYTES:,} bytes; convert the video "
                    "to a smaller size"
                ) from error
            self.damage = getattr(error, "strerror", None) or str(error)

    def _count(self, width: int, height: int) -> None:
        """Count the pixels of a decoded picture.

        Raises:
            OverLimitError: If the picture, or all that were decoded, have too many.
        """
        self._check_size(width, height)
        self._pixels += width * height
        if self._pixels > MAX_DECODED_PIXELS:
            raise OverLimitError(
                f"the video takes more than {MAX_DECODED_PIXELS:,} pixels to decode; cut it, or "
                "convert it to a smaller size"
            )

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
