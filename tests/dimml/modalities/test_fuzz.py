"""Damaged recordings and pictures of the extra `media` are decoded or rejected, and never crash."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from benchmarks.robustness.mutation import examples, mutate
from dimml.errors import InputError
from dimml.modalities import Audio, Image, Kind, Limits
from tests.dimml.modalities.encoded import (
    CONTAINERS,
    encode_container,
    encode_wav,
    tone,
    with_index_in_front,
)
from tests.dimml.modalities.test_formats import picture

AUDIO = Audio("sound", {}, limits=Limits(seconds=20))
IMAGE = Image("view", {"size": (8, 8)}, limits=Limits(pixels=10**6))
CLIP = Image("clip", {"size": (8, 8), "frames": 2}, limits=Limits(pixels=10**6))
ID3 = b"ID3\4\0\0\0\0\0\0"


def with_data_size(wav: bytes, size: int) -> bytes:
    start = wav.index(b"data") + 4
    return wav[:start] + size.to_bytes(4, "little") + wav[start + 4 :]


CASES: dict[str, tuple[Kind, Callable[[], bytes]]] = {
    **{name: (AUDIO, lambda name=name: encode_container(name, 0.3)) for name in CONTAINERS},
    "MP4 with its index in front": (
        AUDIO,
        lambda: with_index_in_front(encode_container("MP4", 0.3)),
    ),
    "AAC of 8 channels": (AUDIO, lambda: encode_container("AAC", 0.3, layout="7.1")),
    "streamed WAV": (AUDIO, lambda: with_data_size(encode_wav(tone(0.1), "PCM_24"), 0)),
    "MP3": (AUDIO, lambda: ID3 + bytes(9) + encode_wav(tone(3), None, "MP3")),
    "HEIC": (IMAGE, lambda: picture("HEIF")),
    "HEIC as a clip": (CLIP, lambda: picture("HEIF")),
}
MAX_SECONDS = 5


def decode(kind: Kind, data: bytes) -> InputError | None:
    """Decode, preprocess and describe a value, and return the error if it is rejected."""
    try:
        raw = kind.decode(data)
    except InputError as error:
        return error
    kind.preprocess(raw)
    assert all(isinstance(warning, str) for warning in kind.warnings(raw))
    return None


@pytest.mark.parametrize(("kind", "encode"), CASES.values(), ids=CASES)
def test_damaged_file_is_decoded_or_rejected(kind: Kind, encode: Callable[[], bytes]) -> None:
    data = encode()
    assert decode(kind, data) is None
    for seed in range(examples(60)):
        started = time.monotonic()
        if error := decode(kind, mutate(data, seed)):
            assert error.code in ("unreadable", "unsupported_type", "too_large")
            assert len(error.message) < 500
        assert time.monotonic() - started < MAX_SECONDS, seed


@pytest.mark.parametrize(("kind", "encode"), CASES.values(), ids=CASES)
def test_file_cut_at_any_place_is_decoded_or_rejected(
    kind: Kind, encode: Callable[[], bytes]
) -> None:
    data = encode()
    for size in range(1, len(data), max(1, len(data) // examples(40))):
        if error := decode(kind, data[:size]):
            assert error.code in ("unreadable", "unsupported_type")
