from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import PIL.Image
import pytest

from dimml.errors import InputError
from dimml.modalities import Image

KIND = Image("photo", {"size": (8, 8)})


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        KIND.decode(path)
    assert caught.value.code == "unreadable"
    return caught.value.message


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_path_is_tried_in_the_other_normal_form(
    tmp_path: Path, on_disk: str, in_table: str
) -> None:
    name = "caf\u00e9.png"
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / unicodedata.normalize(on_disk, name))  # type: ignore[arg-type]
    [image] = KIND.decode(tmp_path / unicodedata.normalize(in_table, name))  # type: ignore[arg-type]
    assert image.size == (4, 4)


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("photos\\a.png", "separate folders with /"),
        ("~/a.png", "~ is not expanded"),
        ("file:///srv/a.png", "file:// URL; write the path alone"),
        ("https://example.org/a.png", "this is a URL; only `dimml score --allow-scheme`"),
        ("s3://bucket/a.png", "this is a URL"),
        ("my%20photo.png", "%20 stands for a blank"),
        ("data:image/png;base64,iVBORw0KGgo=", "a data: URL"),
        (base64.b64encode(bytes(range(256))).decode(), "looks like base64"),
        ("no/such.png", "no such file: "),
    ],
)
def test_message_of_a_missing_file_says_what_is_wrong_with_its_path(
    tmp_path: Path, cell: str, hint: str
) -> None:
    assert hint in refusal(tmp_path / cell)


def test_cell_that_is_too_long_for_a_path_is_shortened(tmp_path: Path) -> None:
    message = refusal(tmp_path / ("x" * 350 + " no file"))
    assert "File name too long" in message
    assert len(message) < 300
    base64_message = refusal(tmp_path / base64.b64encode(bytes(3_000)).decode())
    assert "looks like base64" in base64_message
    assert len(base64_message) < 300
