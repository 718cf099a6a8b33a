"""Formats that are recognised by their first bytes, with and without the extra `media`."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dimml.errors import InputError
from dimml.modalities import Audio, Flow, Image, Kind, Limits, formats
from tests.dimml.modalities.encoded import CONTAINERS, encode_container, encode_wav, tone

SIZE = (96, 64)


def picture(form: str, **options: Any) -> bytes:
    formats.register_heif()
    file = io.BytesIO()
    left_red = PIL.Image.new("RGB", SIZE)
    left_red.paste((255, 0, 0), (0, 0, 48, 64))
    left_red.save(file, form, **options)
    return file.getvalue()


def tiff_with_tags(*tags: tuple[int, int]) -> bytes:
    info = PIL.TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags:
        info[tag] = value
    return picture("TIFF", tiffinfo=info)


def image(limits: Limits | None = None, **config: Any) -> Image:
    return Image("view", {"size": (8, 8), **config}, limits=limits)


def decode_error(kind: Kind, value: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        kind.decode(value)
    return caught.value


PICTURES = {
    "JPEG XL": (b"\xff\x0a" + bytes(40), "JPEG XL"),
    "JPEG XL in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "JPEG XL"),
    "JPEG 2000": (picture("JPEG2000"), "JPEG 2000"),
    "JPEG 2000 without a container": (picture("JPEG2000", no_jp2=True), "JPEG 2000"),
    "Photoshop": (b"8BPS\0\1" + bytes(40), "a Photoshop file (PSD)"),
    "ICO": (picture("ICO"), "ICO"),
    "OpenEXR": (b"v/1\1\2\0\0\0", "OpenEXR"),
    "DICOM": (bytes(128) + b"DICM" + bytes(9), "DICOM"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "SVG with a declaration": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<SVG></SVG>', "SVG"),
    "Canon raw": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a camera's raw file"),
    "Canon raw of 2018": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera's raw file"),
    "Fujifilm raw": (b"FUJIFILMCCD-RAW 0201", "a camera's raw file"),
    "DNG": (tiff_with_tags((50_706, 1)), "a camera's raw file"),
    "Nikon raw": (tiff_with_tags((254, 1), (330, 8)), "a camera's raw file"),
}


@pytest.mark.parametrize(("data", "name"), PICTURES.values(), ids=PICTURES)
def test_picture_that_is_not_decoded_is_named(data: bytes, name: str) -> None:
    error = decode_error(image(), data)
    assert error.code == "unsupported_type"
    assert f"the file is {name}, which is not decoded; convert it to PNG or JPEG" in error.message


OTHERS: dict[str, tuple[type[Kind], bytes, str]] = {
    "PDF as a picture": (Image, b"%PDF-1.7\n", "expected a picture, but the file is PDF"),
    "PDF as a recording": (Audio, b"%PDF-1.7\n", "expected a recording, but the file is PDF"),
    "HTML": (Image, b"<!doctype html><p>", "the file is HTML or XML"),
    "ZIP": (Image, b"PK\3\4" + bytes(30), "the file is a ZIP archive or an Office document"),
    "WAV as a picture": (Image, encode_wav(tone(0.1)), "but the file is WAV"),
    "video as a picture": (Image, encode_container("MP4"), "but the file is MP4, M4A or 3GP"),
    "PNG as a recording": (Audio, picture("PNG"), "but the file is PNG"),
    "HEIC as a recording": (Audio, picture("HEIF"), "but the file is HEIC"),
    "MIDI": (Audio, b"MThd\0\0\0\6" + bytes(30), "MIDI, which holds notes and no sound"),
    "damaged PNG": (Image, b"\x89PNG\r\n\x1a\n" + bytes(40), "begins as PNG and is damaged"),
}


@pytest.mark.parametrize(("kind", "data", "message"), OTHERS.values(), ids=OTHERS)
def test_file_of_another_kind_is_named(kind: type[Kind], data: bytes, message: str) -> None:
    error = decode_error(kind("view", {}), data)
    assert error.code == "unsupported_type"
    assert message in error.message
    assert "are accepted" in error.message


class TestHeic:
    def test_heic_picture_is_decoded(self) -> None:
        [decoded] = image().decode(picture("HEIF", quality=95))
        assert decoded.size == SIZE
        assert np.asarray(decoded)[32, 20] == pytest.approx([255, 0, 0], abs=12)
        assert np.asarray(decoded)[32, 80] == pytest.approx([0, 0, 0], abs=12)

    def test_rotation_of_a_heic_picture_is_applied(self) -> None:
        [decoded] = image().decode(rotated(picture("HEIF", quality=95)))
        assert decoded.size == (64, 96)
        assert np.asarray(decoded)[80, 32] == pytest.approx([255, 0, 0], abs=12)

    def test_limit_of_pixels_applies_before_a_heic_picture_is_decoded(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pillow_heif

        def refuse(*_: Any) -> None:
            raise AssertionError("the picture was decoded")

        monkeypatch.setattr(pillow_heif.HeifImageFile, "load", refuse)
        error = decode_error(image(Limits(pixels=6_000)), picture("HEIF"))
        assert (error.code, "6,000 pixels" in error.message) == ("too_large", True)

    def test_limit_of_pixels_applies_to_the_image_that_a_heic_picture_is_cut_from(self) -> None:
        # Coded sides are multiples of 8 and at least 64, and a box `clap` cuts the rest off.
        file = io.BytesIO()
        PIL.Image.new("RGB", (40, 40)).save(file, "HEIF")
        data = bytearray(file.getvalue())
        assert b"clap" in data
        start = data.index(b"ispe") + 8
        data[start : start + 8] = (20_000).to_bytes(4, "big") * 2
        assert decode_error(image(), bytes(data)).code == "too_large"

    def test_heic_picture_of_another_size_than_declared_is_rejected(self) -> None:
        data = bytearray(picture("HEIF"))
        start = data.index(b"ispe") + 8
        data[start : start + 8] = (8).to_bytes(4, "big") * 2
        assert decode_error(image(), bytes(data)).code == "unreadable"

    def test_damaged_heic_picture_is_rejected(self) -> None:
        data = picture("HEIF")
        error = decode_error(image(), data[:40])
        assert error.code in ("unreadable", "unsupported_type")
        assert "pip install" not in error.message


def rotated(data: bytes) -> bytes:
    """Return a HEIC picture with the property `irot`, which turns it counterclockwise by 90."""
    patched = bytearray(data)
    number = 1 + count_boxes(data)
    properties = patched.index(b"ipco") - 4
    end = properties + int.from_bytes(patched[properties : properties + 4], "big")
    patched[end:end] = (9).to_bytes(4, "big") + b"irot\1"
    # Behind version, number of items and the item's number: how many properties it has, and which.
    associations = patched.index(b"ipma") + 14
    patched[associations] += 1
    patched.insert(associations + patched[associations], 0x80 | number)
    for name, growth in ((b"ipco", 9), (b"ipma", 1), (b"iprp", 10), (b"meta", 10)):
        start = patched.index(name) - 4
        size = int.from_bytes(patched[start : start + 4], "big") + growth
        patched[start : start + 4] = size.to_bytes(4, "big")
    # `iloc` has the position of the pixels in the file.
    position = patched.index(b"mdat") + 4
    entry = patched.index((position - 10).to_bytes(4, "big"), patched.index(b"iloc"))
    patched[entry : entry + 4] = position.to_bytes(4, "big")
    return bytes(patched)


def count_boxes(data: bytes) -> int:
    """Return the number of properties in `ipco`."""
    position = data.index(b"ipco") + 4
    end = position - 8 + int.from_bytes(data[position - 8 : position - 4], "big")
    count = 0
    while position < end:
        position += int.from_bytes(data[position : position + 4], "big")
        count += 1
    return count


@pytest.fixture
def without_media(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for function in (formats.is_installed, formats.register_heif):
        function.cache_clear()
    for package in ("av", "pillow_heif"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    yield
    for function in (formats.is_installed, formats.register_heif):
        function.cache_clear()


@pytest.mark.usefixtures("without_media")
class TestWithoutTheExtra:
    def test_heic_picture_names_the_extra(self) -> None:
        error = decode_error(image(), HEIC)
        assert error.code == "unsupported_type"
        assert "the file is HEIC; run `pip install -e '.[media]'` to decode it" in error.message

    @pytest.mark.parametrize("name", CONTAINERS)
    def test_container_names_the_extra(self, name: str) -> None:
        error = decode_error(Audio("sound", {}), RECORDINGS[name])
        assert error.code == "unsupported_type"
        assert "run `pip install -e '.[media]'` to decode it, or convert it" in error.message

    def test_accepted_formats_exclude_those_of_the_extra(self) -> None:
        assert "; not HEIC" in image().accepts()
        assert "; not MP4" in Audio("sound", {}).accepts()
        assert "MP4" not in Image("clip", {"frames": 2}).accepts()


HEIC = picture("HEIF")
RECORDINGS = {name: encode_container(name, 0.1) for name in CONTAINERS}


def test_accepted_formats_are_described_by_kind() -> None:
    assert "AVIF, PPM, HEIC" in image().accepts()
    assert "MP4" not in image().accepts()
    assert "or a video: MP4, WebM" in Image("clip", {"frames": 2}).accepts()
    assert "also MP4, M4A" in Audio("sound", {}).accepts()
    assert "in the order u, v, u, v" in Flow("flow", {}).accepts()


def test_packages_of_the_extra_are_imported_when_a_file_needs_them() -> None:
    code = (
        "import sys\n"
        "from dimml.modalities import Audio, Image\n"
        "audio, image = Audio('a', {}), Image('i', {})\n"
        "audio.decode(audio.example()); image.decode(image.example())\n"
        "print({'av', 'pillow_heif', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
