"""Encoded recordings: a tone in each container that the extra `media` decodes."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import PIL.Image
import soundfile

RATE = 16_000

CONTAINERS = {
    "M4A": ("ipod", "aac"),
    "M4A of ALAC": ("ipod", "alac"),
    "MP4": ("mp4", "aac"),
    "3GP": ("3gp", "aac"),
    "MOV": ("mov", "pcm_s16le"),
    "WebM": ("webm", "libopus"),
    "Matroska": ("matroska", "pcm_s16le"),
    "WMA": ("asf", "wmav2"),
    "AAC": ("adts", "aac"),
    "AC-3": ("ac3", "ac3"),
    "AMR": ("amr", "libopencore_amrnb"),
    "RealAudio": ("rm", "ac3"),
    "AVI": ("avi", "pcm_s16le"),
    "WavPack": ("wv", "wavpack"),
}
"""Name to FFmpeg's muxer and encoder."""

_RATES = {"libopus": 48_000, "libopencore_amrnb": 8_000, "ac3": 48_000, "wmav2": 44_100}


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    """Return 440 Hz at 0.3 of full scale, float32 [samples]."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


def encode_wav(samples: np.ndarray, subtype: str | None = "PCM_16", form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form, subtype=subtype)
    return file.getvalue()


def encode_container(
    name: str, seconds: float = 1.0, tracks: int = 1, layout: str = "mono"
) -> bytes:
    """Return a tone in a container of `CONTAINERS`."""
    muxer, encoder = CONTAINERS[name]
    rate = _RATES.get(encoder, RATE)
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        streams = [add_track(container, encoder, rate, layout) for _ in range(tracks)]
        for stream in streams:
            encode_track(container, stream, seconds)
    return file.getvalue()


def add_track(container: Any, encoder: str, rate: int, layout: str) -> Any:
    stream = container.add_stream(encoder, rate=rate, layout=layout)
    stream.codec_context.bit_rate = 64_000
    stream.codec_context.open()
    return stream


def encode_track(container: Any, stream: Any, seconds: float) -> None:
    """Write a tone as the sound of a track."""
    context = stream.codec_context
    layout, rate = context.layout.name, context.sample_rate
    resampler = av.AudioResampler(
        context.format.name, layout, rate, frame_size=context.frame_size or None
    )
    samples = np.repeat(tone(seconds, rate), context.layout.nb_channels)[None]
    frame = av.AudioFrame.from_ndarray(samples, "flt", layout)
    frame.sample_rate = rate
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


VIDEOS = {
    "MP4": ("mp4", "libx264", "aac"),
    "MOV": ("mov", "mpeg4", "pcm_s16le"),
    "FLV": ("flv", "flv", "libmp3lame"),
    "WebM": ("webm", "libvpx", "libopus"),
    "Matroska": ("matroska", "libx264", "aac"),
    "AVI": ("avi", "mpeg4", "pcm_s16le"),
    "MPEG": ("mpeg", "mpeg2video", "mp2"),
    "MPEG-TS": ("mpegts", "libx264", "aac"),
    "WMV": ("asf", "wmv2", "wmav2"),
}
"""Name to FFmpeg's muxer and encoders of pictures and sound."""


def encode_video(
    name: str = "MP4",
    frames: int = 50,
    *,
    sound: bool = False,
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    key_frames: int = 12,
    options: dict[str, str] | None = None,
) -> bytes:
    """Return a video of 25 pictures a second, of which picture n is 4 * n bright.

    Its upper left corner is white.

    Args:
        name: Name of a container of `VIDEOS`.
        frames: Number of pictures, at most 55.
        sound: Whether it has a sound track of the same length.
        size: Width and height in pixels.
        rotation: Degrees by which a player rotates the picture counterclockwise.
        key_frames: Pictures from one key frame to the next.
        options: Options of the muxer.
    """
    muxer, encoder, sound_encoder = VIDEOS[name]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=options or {}) as container:
        stream: Any = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = key_frames
        if rotation:
            stream.set_display_rotation(rotation)
        rate = 48_000 if sound_encoder == "libopus" else 44_100
        track = add_track(container, sound_encoder, rate, "mono") if sound else None
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 4 * number, np.uint8)
            pixels[:8, :8] = 255
            picture = av.VideoFrame.from_ndarray(pixels, "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if track:
            encode_track(container, track, frames / 25)
    return file.getvalue()


def brightness(picture: PIL.Image.Image) -> float:
    """Return the number of a picture of `encode_video`, from its middle."""
    middle = np.asarray(picture.convert("L"), float)[picture.height // 2, picture.width // 2]
    return float(middle) / 4


def with_field(data: bytes, box: bytes, offset: int, *values: int) -> bytes:
    """Replace 32-bit numbers at an offset behind the name of a box of an MP4."""
    patched = bytearray(data)
    struct.pack_into(f">{len(values)}I", patched, data.index(box) + 4 + offset, *values)
    return bytes(patched)


def with_index_in_front(data: bytes) -> bytes:
    """Move the index of an MP4, the box `moov`, from its end to before the samples."""
    index = bytearray(data[data.index(b"moov") - 4 :])
    table = index.index(b"stco") + 8
    [count] = struct.unpack_from(">I", index, table)
    for entry in range(table + 4, table + 4 + 4 * count, 4):
        [position] = struct.unpack_from(">I", index, entry)
        struct.pack_into(">I", index, entry, position + len(index))
    [head] = struct.unpack_from(">I", data, 0)
    return data[:head] + index + data[head : len(data) - len(index)]
