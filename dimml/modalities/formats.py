"""File formats recognised by their first bytes, and what to do with those that are not decoded.

The extra `media` decodes HEIC pictures (pillow-heif) and the sound of MP4, WebM and other
containers (PyAV). Both packages are imported when a file first needs them.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import Literal

PICTURE_FORMATS: tuple[str, ...] = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""The formats of pictures that are decoded without an extra, as Pillow names them."""

INSTALL_MEDIA = "pip install -e '.[media]'"

MEDIA_RECORDINGS = (
    "MP4, M4A, 3GP, WebM, Matroska, WMA, AMR, AAC, AC-3, RealAudio, AVI, FLV, MPEG, WavPack and APE"
)
MEDIA_PICTURES = "HEIC"
MEDIA_VIDEOS = "MP4, WebM, Matroska, AVI, FLV, MPEG, WMV and 3GP"
"""What the extra `media` decodes."""

_VIDEO_DEMUXERS = frozenset({"mov", "matroska", "avi", "flv", "mpeg", "mpegts", "asf"})

RECOGNISED_BYTES = 4_096
"""Bytes of a file that tell its format."""

Content = Literal["picture", "recording", "document"]


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: Its name in messages.
        content: What a file of the format holds.
        demuxer: FFmpeg's name of the container that the extra `media` decodes.
        is_heif: Whether the extra `media` decodes the picture.
        is_core: Whether the format is decoded without an extra.
    """

    name: str
    content: Content
    demuxer: str = ""
    is_heif: bool = False
    is_core: bool = False

    @property
    def may_be_video(self) -> bool:
        """Whether a file of the format can have a video track."""
        return self.demuxer in _VIDEO_DEMUXERS

    @property
    def package(self) -> str:
        """The package of the extra `media` that decodes the format, "" if none does."""
        return "pillow_heif" if self.is_heif else "av" if self.demuxer else ""


HEIC = Format("HEIC", "picture", is_heif=True)
CAMERA_RAW = Format("a camera's raw file", "picture")
MP4 = Format("MP4, M4A or 3GP", "recording", "mov")
_SVG = Format("SVG", "picture")

_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\xff\x0a", Format("JPEG XL", "picture")),
    (0, b"\0\0\0\x0cJXL ", Format("JPEG XL", "picture")),
    (0, b"\0\0\0\x0cjP  ", Format("JPEG 2000", "picture")),
    (0, b"\xff\x4f\xff\x51", Format("JPEG 2000", "picture")),
    (0, b"8BPS", Format("a Photoshop file (PSD)", "picture")),
    (0, b"\0\0\1\0", Format("ICO", "picture")),
    (0, b"v/1\1", Format("OpenEXR", "picture")),
    (128, b"DICM", Format("DICOM", "picture")),
    (8, b"CR\2\0", CAMERA_RAW),
    (0, b"FUJIFILMCCD-RAW", CAMERA_RAW),
    (0, b"IIU\0", CAMERA_RAW),
    (0, b"IIRO", CAMERA_RAW),
    (0, b"MMOR", CAMERA_RAW),
    (0, b"FOVb", CAMERA_RAW),
    (0, b"\x89PNG", Format("PNG", "picture", is_core=True)),
    (0, b"\xff\xd8\xff", Format("JPEG", "picture", is_core=True)),
    (0, b"GIF8", Format("GIF", "picture", is_core=True)),
    (8, b"WEBP", Format("WEBP", "picture", is_core=True)),
    (0, b"\x1a\x45\xdf\xa3", Format("WebM or Matroska", "recording", "matroska")),
    (0, bytes.fromhex("3026b2758e66cf11"), Format("WMA or ASF", "recording", "asf")),
    (0, b"#!AMR", Format("AMR", "recording", "amr")),
    (0, b".RMF", Format("RealAudio", "recording", "rm")),
    (0, b".ra\xfd", Format("RealAudio", "recording", "rm")),
    (0, b"\x0b\x77", Format("AC-3", "recording", "ac3")),
    (0, b"FLV\x01", Format("FLV", "recording", "flv")),
    (0, b"\0\0\1\xba", Format("MPEG", "recording", "mpeg")),
    (0, b"wvpk", Format("WavPack", "recording", "wv")),
    (0, b"MAC ", Format("Monkey's Audio", "recording", "ape")),
    (8, b"AVI LIST", Format("AVI", "recording", "avi")),
    (4, b"moov", MP4),
    (4, b"mdat", MP4),
    (4, b"wide", MP4),
    (0, b"MThd", Format("MIDI, which holds notes and no sound", "recording")),
    (8, b"WAVE", Format("WAV", "recording", is_core=True)),
    (0, b"fLaC", Format("FLAC", "recording", is_core=True)),
    (0, b"OggS", Format("OGG", "recording", is_core=True)),
    (0, b"ID3", Format("MP3", "recording", is_core=True)),
    (0, b"%PDF-", Format("PDF", "document")),
    (0, b"%!PS", Format("PostScript", "document")),
    (0, b"PK\3\4", Format("a ZIP archive or an Office document", "document")),
    (0, b"\x1f\x8b", Format("a gzip archive", "document")),
)
_AAC = Format("AAC (ADTS)", "recording", "aac")
_MPEG_TS = Format("MPEG-TS", "recording", "mpegts")
_TS_PACKET_BYTES = 188
_ADTS = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevm", b"hevs", b"hevx"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(\?xml|!doctype|!--|svg|html)", re.IGNORECASE)


def recognise(data: bytes) -> Format | None:
    """Return the format of a file, or None if it is not one of those known here."""
    data = data[:RECOGNISED_BYTES]
    if data[4:8] == b"ftyp":
        return _recognise_brands(data)
    for offset, magic, file_format in _MAGIC:
        if data.startswith(magic, offset):
            return file_format
    if data[::_TS_PACKET_BYTES][:4] == b"GGGG":
        return _MPEG_TS
    if _ADTS.match(data):
        return _AAC
    if _MARKUP.match(data):
        return _SVG if b"<svg" in data.lower() else Format("HTML or XML", "document")
    return None


def heic_pixels(data: bytes) -> int:
    """Return the pixels of the largest image in a HEIC, of which the picture may be a small part.

    The decoder rejects an image that is larger than its box `ispe` declares.
    """
    sizes = (struct.unpack(">II", match[1]) for match in _HEIC_SIZE.finditer(data))
    return max((width * height for width, height in sizes), default=0)


def _recognise_brands(data: bytes) -> Format:
    """Return the format of a file that begins with a `ftyp` box, which lists its brands."""
    size = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, size - 3, 4))}
    if data[8:12] == b"crx ":
        return CAMERA_RAW
    if brands & _HEIC_BRANDS:
        return HEIC
    return Format("AVIF", "picture", is_core=True) if brands & _AVIF_BRANDS else MP4


def explain_unsupported(
    found: Format, wanted: Content, accepted: str, takes_video: bool = False
) -> str:
    """Return why a file of a known format is not accepted, and what to do.

    Args:
        found: The format of the file.
        wanted: What the modality takes.
        accepted: The formats that it accepts, such as "PNG and JPEG are accepted".
        takes_video: Whether the modality takes the pictures of a video.
    """
    package = found.package
    if found.content != wanted and not (takes_video and found.may_be_video):
        hint = "; with `frames: 8` in its preprocessing the modality takes videos"
        advice = hint if wanted == "picture" and found.may_be_video else ""
        return f"expected a {wanted}, but the file is {found.name}; {accepted}{advice}"
    if found.is_core or (package and is_installed(package)):
        return f"the file begins as {found.name} and is damaged; save it again; {accepted}"
    target = "PNG or JPEG" if wanted == "picture" else "WAV, FLAC, OGG or MP3"
    if package:
        return (
            f"the file is {found.name}; run `{INSTALL_MEDIA}` to decode it, or convert it to "
            f"{target}; {accepted}"
        )
    return f"the file is {found.name}, which is not decoded; convert it to {target}; {accepted}"


def picture_formats() -> str:
    """Return the formats of pictures that are decoded, for documents."""
    extra = ", " if is_installed("pillow_heif") else "; not "
    return f"{', '.join(PICTURE_FORMATS)}{extra}{MEDIA_PICTURES}"


@cache
def is_installed(package: str) -> bool:
    """Return whether a package of the extra `media` is installed, without importing it."""
    return importlib.util.find_spec(package) is not None


@cache
def register_heif() -> bool:
    """Add the decoder of HEIC to Pillow, and return whether it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    # The caller decodes pictures in threads already.
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    return True
