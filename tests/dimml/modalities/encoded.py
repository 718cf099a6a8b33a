"""Encoded recordings: a tone in each container that the extra `media` decodes."""

from __future__ import annotations

import io
import struct

import av
import numpy as np
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
        streams = [container.add_stream(encoder, rate=rate, layout=layout) for _ in range(tracks)]
        for stream in streams:
            stream.codec_context.bit_rate = 64_000
            stream.codec_context.open()
        for stream in streams:
            context = stream.codec_context
            resampler = av.AudioResampler(
                context.format.name, layout, rate, frame_size=context.frame_size or None
            )
            channels = av.AudioLayout(layout).nb_channels
            samples = np.repeat(tone(seconds, rate), channels)[None]
            frame = av.AudioFrame.from_ndarray(samples, "flt", layout)
            frame.sample_rate = rate
            for part in (*resampler.resample(frame), *resampler.resample(None)):
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return file.getvalue()


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
