"""Sound in containers, which the extra `media` decodes from memory with limits."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimml.errors import InputError
from dimml.modalities import Audio, Limits, containers
from tests.dimml.modalities.encoded import (
    CONTAINERS,
    RATE,
    encode_container,
    tone,
    with_field,
    with_index_in_front,
)


def audio(limits: Limits | None = None) -> Audio:
    return Audio("sound", {"seconds": None}, limits=limits)


def decode_error(kind: Audio, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    assert caught.value.field == "sound"
    return caught.value


@pytest.mark.parametrize("name", CONTAINERS)
def test_sound_of_a_container_is_decoded(name: str) -> None:
    kind = audio()
    decoded = kind.decode(encode_container(name))
    # Encoders add a part of a frame at the start and the end.
    assert len(decoded.samples) == pytest.approx(RATE, abs=2_000)
    spectrum = np.abs(np.fft.rfft(decoded.samples))
    loudest = np.argmax(spectrum) * RATE / len(decoded.samples)
    assert loudest == pytest.approx(440, abs=2)
    assert np.abs(decoded.samples).max() == pytest.approx(0.3, abs=0.04)
    assert kind.warnings(decoded) == ()


def test_lossless_container_has_the_exact_samples() -> None:
    decoded = audio().decode(encode_container("MOV")).samples
    np.testing.assert_allclose(decoded, tone(), atol=1 / 32_768)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("MOV", "stereo"), ("MOV", "7.1"), ("MOV", "hexadecagonal"), ("M4A", "5.1"), ("M4A", "7.1")],
)
def test_channels_of_a_container_are_averaged(name: str, layout: str) -> None:
    # From 8 channels on, PyAV reads beyond the planes of a frame, and crashes at worst.
    decoded = audio().decode(encode_container(name, layout=layout)).samples
    assert np.abs(decoded[4_000:12_000]).max() == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("name", ["M4A", "WebM"])
def test_limit_of_seconds_applies_to_a_container(name: str) -> None:
    error = decode_error(audio(Limits(seconds=2)), encode_container(name, seconds=3))
    assert (error.code, error.message) == ("too_large", "the recording is over the limit of 2 s")


def test_container_cut_at_the_end_is_read_with_a_warning() -> None:
    kind = audio()
    data = encode_container("WebM", seconds=3)
    [warning] = kind.warnings(kind.decode(data[: len(data) // 2]))
    assert (
        warning == "the file is damaged (its header declares 3.0 s); only the first 1.5 s were read"
    )


def test_mp4_without_its_index_is_rejected() -> None:
    data = encode_container("M4A")
    error = decode_error(audio(), data[: len(data) // 2])
    assert error.code == "unreadable"
    assert "convert it again" in error.message


def test_mp4_with_its_index_in_front_is_read_up_to_the_cut() -> None:
    kind = audio()
    data = with_index_in_front(encode_container("M4A", seconds=3))
    [warning] = kind.warnings(kind.decode(data[: len(data) // 2]))
    assert warning.startswith("the file is damaged")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("packets", [20_000_000, 2**31 - 1])
def test_mp4_that_declares_too_many_packets_allocates_little(packets: int) -> None:
    data = with_field(encode_container("M4A"), b"stsz", 4, 1, packets)
    data = with_field(data, b"stsc", 12, packets)
    code = (
        "import re, sys\n"
        "from dimml.modalities import Audio\n"
        "from dimml.errors import InputError\n"
        "kind, data = Audio('a', {}), sys.stdin.buffer.read()\n"
        "try: kind.decode(data)\n"
        "except InputError as error: print(error.code)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    outcome, kilobytes = done.stdout.split()
    assert outcome == b"unreadable"
    assert int(kilobytes) < 300_000


def test_declared_length_of_days_allocates_nothing() -> None:
    kind = audio()
    data = with_field(encode_container("M4A"), b"mdhd", 16, 2**31 - 1)
    decoded = kind.decode(data)
    assert len(decoded.samples) == pytest.approx(RATE, abs=2_000)


def test_streams_of_a_container_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_container("Matroska", seconds=0.1, tracks=containers.MAX_STREAMS + 20)
    opened: list[int] = []
    read = containers._read_track

    def counting_read(container: Any, demuxer: str) -> Any:
        opened.append(len(container.streams))
        return read(container, demuxer)

    monkeypatch.setattr(containers, "_read_track", counting_read)
    assert len(audio().decode(data).samples) == 1_600
    assert opened == [containers.MAX_STREAMS]


def test_mp4_does_not_read_the_file_that_it_refers_to(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(encode_container("M4A"))
    data = bytearray(secret.read_bytes())
    samples = data.index(b"mdat") + 4
    [size] = struct.unpack_from(">I", data, samples - 8)
    data[samples : samples + size - 8] = bytes(size - 8)
    # The data reference `url ` of 12 bytes, whose flag says that the samples are in this file.
    start = data.index(b"url ") - 4
    location = f"file://{secret}".encode() + b"\0"
    data[start : start + 12] = struct.pack(">I4sI", 12 + len(location), b"url ", 0) + location
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        position = data.index(box) - 4
        [size] = struct.unpack_from(">I", data, position)
        struct.pack_into(">I", data, position, size + len(location))
    assert decode_error(audio(), bytes(data)).code == "unreadable"


@pytest.mark.parametrize(
    "playlist",
    [b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"],
)
def test_playlist_is_rejected_without_opening_its_files(playlist: bytes) -> None:
    assert decode_error(audio(), playlist).code == "unsupported_type"


def test_container_without_any_track_is_rejected() -> None:
    error = decode_error(audio(), b"FLV\x01\x05\0\0\0\x09\0\0\0\0")
    assert error.code == "unreadable"
