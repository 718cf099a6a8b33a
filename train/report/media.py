"""Inputs of a sample as a page shows them: thumbnails, the beginning of a text, short recordings.

Everything is small and part of the page, as data URLs.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import soundfile
import soxr

from dimml.errors import InputError
from dimml.modalities import Audio, Kind
from dimml.modalities.audio import Recording
from dimml.modalities.text import Text, plain_text
from dimml.samples import is_absent

THUMBNAIL_PIXELS = 160
LOSSLESS_PIXELS = 64
"""A smaller picture is stored as it is, because JPEG would blur it."""
SHOWN_FRAMES = 4
SHOWN_CHARACTERS = 500
SHOWN_SECONDS = 3.0
MAX_RATE = 16_000


def show_input(value: Any, kind: Kind) -> dict[str, Any]:
    """Return one input of a sample for a page.

    Args:
        value: The value of the modality, see `dimml.samples.Sample`.
        kind: The modality.

    Returns:
        `note` (why there is nothing to show, or what was cut) and one of `text`, `images` or
        `audio`; the last two hold data URLs.
    """
    if is_absent(value):
        return {"note": "absent"}
    try:
        raw = kind.decode(value)
    except InputError as error:
        return {"note": f"cannot be read: {error.message}"}
    if isinstance(kind, Text):
        return _text(kind.only_value(value))
    if isinstance(kind, Audio):
        return _recording(raw, kind.config.sample_rate)
    return _pictures(raw)


def _text(value: Any) -> dict[str, Any]:
    text = plain_text(value, SHOWN_CHARACTERS + 1)
    if len(text) <= SHOWN_CHARACTERS:
        return {"text": text, "note": ""}
    return {
        "text": text[:SHOWN_CHARACTERS] + "\N{HORIZONTAL ELLIPSIS}",
        "note": f"the first {SHOWN_CHARACTERS} characters",
    }


def _pictures(frames: list[PIL.Image.Image]) -> dict[str, Any]:
    shown = frames[:SHOWN_FRAMES]
    cut = f"{len(shown)} of {len(frames)} frames" if len(shown) < len(frames) else ""
    return {"images": [_thumbnail(frame) for frame in shown], "note": cut}


def _thumbnail(image: PIL.Image.Image) -> str:
    small = image.copy()
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    if max(small.size) <= LOSSLESS_PIXELS:
        small.save(file, "PNG")
        return _data_url("image/png", file)
    small.save(file, "JPEG", quality=80)
    return _data_url("image/jpeg", file)


def _recording(recording: Recording, rate: int) -> dict[str, Any]:
    samples = recording.samples
    length = int(SHOWN_SECONDS * rate)
    note = ""
    if len(samples) > length:
        note = f"the middle {SHOWN_SECONDS:g} s of {len(samples) / rate:.1f} s"
        # A model of a fixed length uses the middle, too.
        start = (len(samples) - length) // 2
        samples = samples[start : start + length]
    if rate > MAX_RATE:
        samples, rate = soxr.resample(samples, rate, MAX_RATE), MAX_RATE
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), rate, format="WAV", subtype="PCM_16")
    return {"audio": _data_url("audio/wav", file), "note": note}


def _data_url(media_type: str, file: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(file.getvalue()).decode()}"
