"""Unusual and hostile images over HTTP: each has the response that docs/inputs.md states."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from starlette.testclient import TestClient

from dimml.modalities.formats import register_heif
from tests.dimml.modalities.encoded import encode_container
from tests.serving.media import PNG_SIGNATURE, patch, png_chunk

MEBIBYTE = 2**20
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
IMAGE = PIL.Image.fromarray(NOISE)


def encode(image_format: str, image: PIL.Image.Image = IMAGE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def frames(count: int, size: int = 2) -> list[PIL.Image.Image]:
    """Return black and white images in turn: a writer would merge equal neighbours."""
    return [PIL.Image.new("L", (size, size), index % 2 * 255) for index in range(count)]


def animation(image_format: str, count: int) -> bytes:
    first, *others = frames(count)
    return encode(image_format, first, save_all=True, append_images=others, duration=1, loop=0)


def gif(count: int, size: int) -> bytes:
    """Return a GIF that repeats one frame."""
    data = encode("GIF", PIL.Image.new("L", (size, size)))
    start = data.index(b",")
    return data[:start] + data[start:-1] * count + b";"


def png(
    width: int,
    height: int,
    *between: bytes,
    rows: int | None = None,
    depth: int = 8,
    colour: int = 0,
) -> bytes:
    """Return a black PNG whose header declares a size.

    Args:
        width: The declared width.
        height: The declared height.
        between: Chunks between the header and the pixels.
        rows: Rows of pixels that the file holds; by default the declared height.
        depth: Bits per channel.
        colour: The colour type: 0 is grey, 2 RGB and 6 RGBA.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    row_bytes = 1 + width * depth // 8 * {0: 1, 2: 3, 6: 4}[colour]
    pixels = zlib.compress(bytes(row_bytes * (height if rows is None else rows)), 9)
    chunks = png_chunk(b"IHDR", header), *between, png_chunk(b"IDAT", pixels), png_chunk(b"IEND")
    return PNG_SIGNATURE + b"".join(chunks)


def jpeg_of_declared_size(width: int, height: int) -> bytes:
    data = encode("JPEG")
    return patch(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def tiff_of_declared_size(width: int, height: int) -> bytes:
    data = encode("TIFF")
    for tag, value in ((256, width), (257, height)):
        entry = data.index(struct.pack("<HHI", tag, 4, 1))
        data = patch(data, entry + 8, "<I", value)
    return data


def jpeg_with_repeated_scan(count: int) -> bytes:
    data = encode("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def run_length_bmp(length: int) -> bytes:
    runs = b"\1\1" * (length // 2)
    size = struct.pack("<IiiHHIIiiII", 40, 1_000, 1_000, 1, 8, 1, len(runs), 1, 1, 256, 0)
    head = struct.pack("<IHHI", 1_078 + len(runs), 0, 0, 1_078)
    return b"BM" + head + size + bytes(1_024) + runs


def plain_ppm(size: int, content: bytes) -> bytes:
    return b"P2 %d %d 255\n" % (size, size) + content


def deep_image(mode: str) -> PIL.Image.Image:
    """Return an image of 32 bits per pixel, with values below 0 and above 65,535."""
    dtype = {"F": np.float32, "I": np.int32}[mode]
    return PIL.Image.fromarray(np.linspace(-9e4, 9e4, 1_600).reshape(40, 40).astype(dtype))


def heic() -> bytes:
    register_heif()
    return encode("HEIF")


def heic_of_declared_size(width: int, height: int) -> bytes:
    data = heic()
    return patch(data, data.index(b"ispe") + 8, ">II", width, height)


CASES: dict[str, Callable[[], bytes]] = {
    "1 x 1 pixel": lambda: png(1, 1),
    "1 x 40,000 pixels": lambda: png(1, 40_000),
    "CMYK JPEG": lambda: encode("JPEG", IMAGE.convert("CMYK")),
    "16-bit grey PNG": lambda: png(40, 40, depth=16),
    "16-bit RGBA PNG": lambda: png(40, 40, depth=16, colour=6),
    "palette PNG with transparency": lambda: encode("PNG", IMAGE.convert("P"), transparency=0),
    "WebP with alpha": lambda: encode("WEBP", IMAGE.convert("RGBA")),
    "1-bit TIFF": lambda: encode("TIFF", IMAGE.convert("1")),
    "float TIFF": lambda: encode("TIFF", IMAGE.convert("F")),
    "float TIFF of other values": lambda: encode("TIFF", deep_image("F")),
    "32-bit integer TIFF": lambda: encode("TIFF", deep_image("I")),
    "HEIC": lambda: heic(),
    "HEIC cut in half": lambda: heic()[: len(heic()) // 2],
    "HEIC that declares 60,000 x 60,000": lambda: heic_of_declared_size(60_000, 60_000),
    "HEIC that declares another size than it holds": lambda: heic_of_declared_size(8, 8),
    "JPEG XL": lambda: b"\xff\x0a" + bytes(40),
    "JPEG 2000": lambda: encode("JPEG2000"),
    "PSD": lambda: b"8BPS\0\1" + bytes(40),
    "DNG": lambda: encode("TIFF", tiffinfo={50_706: b"\1\4\0\0"}),
    "video": lambda: encode_container("MP4", 0.1),
    "PNG of 3,000 frames": lambda: animation("PNG", 3_000),
    "GIF of 3,000 frames": lambda: animation("GIF", 3_000),
    "WebP of 3,000 frames": lambda: animation("WEBP", 3_000),
    "PNG of 39 megapixels in 40 KB": lambda: png(6_000, 6_500),
    "GIF of 36 megapixels in 30 KB": lambda: gif(1, 6_000),
    "PNG that declares 60,000 x 60,000 pixels": lambda: png(60_000, 60_000, rows=1),
    "JPEG that declares 60,000 x 60,000": lambda: jpeg_of_declared_size(60_000, 60_000),
    "TIFF that declares 60,000 x 60,000": lambda: tiff_of_declared_size(60_000, 60_000),
    "BMP that declares 60,000 x 60,000": lambda: patch(encode("BMP"), 18, "<ii", 60_000, 60_000),
    "GIF that declares 60,000 x 60,000": lambda: patch(encode("GIF"), 6, "<HH", 60_000, 60_000),
    "PNG that declares more rows than it holds": lambda: png(40, 40, rows=20),
    "JPEG that declares more rows than it holds": lambda: jpeg_of_declared_size(40, 4_000),
    "TIFF that declares more rows than it holds": lambda: tiff_of_declared_size(40, 4_000),
    "BMP that declares more rows than it holds": lambda: patch(encode("BMP"), 22, "<i", 4_000),
    "PNG of 0 x 0 pixels": lambda: png(0, 0),
    "PNG with text that expands to 64 MB": lambda: png(
        40, 40, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 * MEBIBYTE)))
    ),
    "PNG with broken EXIF": lambda: png(40, 40, png_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")),
    "PNG of 200,000 unknown chunks": lambda: png(40, 40, png_chunk(b"abCd") * 200_000),
    "progressive JPEG of over 100 scans": lambda: jpeg_with_repeated_scan(100),
    "plain PPM": lambda: plain_ppm(10, b"7 " * 100),
    "plain PPM over 1 MB": lambda: plain_ppm(600, b"#\n" * 500_000),
    "run-length BMP over 1 MB": lambda: run_length_bmp(1_000_000),
    "JPEG followed by a ZIP": lambda: encode("JPEG") + b"PK\3\4" + bytes(100),
    "PNG followed by HTML": lambda: encode("PNG") + b"<script>alert(1)</script>",
    "HTML followed by a PNG": lambda: b"<script>alert(1)</script>" + encode("PNG"),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": lambda: encode("PDF"),
    "ICO": lambda: encode("ICO"),
}
CLIPS: dict[str, list[Callable[[], bytes]]] = {
    "GIF of 64 frames as a clip": [lambda: gif(64, 2)],
    "GIF of 65 frames as a clip": [lambda: gif(65, 2)],
    "GIF of 40 frames of 9 megapixels as a clip": [lambda: gif(40, 3_000)],
    "PNG that declares a billion frames as a clip": [
        lambda: png(40, 40, png_chunk(b"acTL", struct.pack(">II", 2**30, 0)))
    ],
    "one broken picture in a clip": [lambda: png(4, 4), lambda: png(40, 40)[:45]],
}


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, open_client: Any) -> Iterator[TestClient]:
    with open_client(tiny_bundle) as client:
        yield client


def assert_response(response: Any, field: str, expected: tuple[int, str | None]) -> None:
    """Check the status of a response, and the code and the field of its error."""
    error = response.json().get("error", {"code": None, "field": field})
    assert (response.status_code, error["code"]) == expected
    assert error["field"] == field


@pytest.mark.parametrize("name", CASES)
def test_image_has_its_documented_response(
    client: TestClient, documented_responses: Any, name: str
) -> None:
    response = client.post("/predict", files={"image": ("file", CASES[name]())})
    assert_response(response, "image", documented_responses("Images")[name])


def test_clip_has_its_documented_response(
    frames_bundle: Path, open_client: Any, documented_responses: Any
) -> None:
    with open_client(frames_bundle) as client:
        for name, images in CLIPS.items():
            files = [("clip", ("file", make())) for make in images]
            response = client.post("/predict", files=files)
            assert_response(response, "clip", documented_responses("Images")[name])


def test_every_documented_image_is_tested(documented_responses: Any) -> None:
    assert set(documented_responses("Images")) == {*CASES, *CLIPS}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_batch_of_large_images_needs_the_memory_of_one(tiny_bundle: Path, open_server: Any) -> None:
    image = png(6_000, 6_500)
    with open_server(tiny_bundle, workers=1, threads=1) as server:
        server.wait_until_ready()
        [worker] = server.workers

        def predict(_: int) -> int:
            files = {"image": ("file", image)}
            return int(server.client.post("/predict", files=files, timeout=60).status_code)

        assert predict(0) == 200
        before = peak_memory(worker.pid)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(predict, range(8))) == [200] * 8
        assert peak_memory(worker.pid) - before < 160 * MEBIBYTE


def peak_memory(process: int) -> int:
    """Return the largest resident size that a process had, in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
