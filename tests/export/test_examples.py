"""The examples of a bundle: which rows are chosen, and how their values are stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dimml.bundle import Bundle
from dimml.errors import BundleError
from dimml.modalities import Kind
from dimml.modality_specs import build_kind
from dimml.table import Row
from export.examples import MAX_BYTES, choose_examples
from tests.dimml.test_features import change_manifest
from tests.serving.media import JPEG, PNG, WAV


@pytest.fixture(scope="module")
def kinds(tiny_bundle: Path) -> dict[str, Kind]:
    bundle = Bundle.load(tiny_bundle)
    specs = bundle.manifest.modalities.items()
    return {name: build_kind(name, spec, bundle.assets(spec), None) for name, spec in specs}


def row(number: int, label: str, **sample: Any) -> Row:
    values = {name: sample.get(name) for name in ("audio", "image", "text")}
    return Row(str(number), "test", label, values)


def full(number: int, label: str) -> Row:
    return row(number, label, audio=WAV, image=PNG, text=f"text {number}")


def texts(kinds: dict[str, Kind], rows: list[Row], count: int) -> list[Any]:
    return [example.values.get("text") for example in choose_examples(kinds, rows, count)[0]]


def test_each_label_comes_before_a_second_example_of_a_label(kinds: dict[str, Kind]) -> None:
    rows = [full(0, "a"), full(1, "a"), full(2, "b"), full(3, "a"), full(4, "c")]
    assert texts(kinds, rows, 4) == ["text 0", "text 2", "text 4", "text 1"]


def test_complete_rows_come_before_rows_with_absent_modalities(kinds: dict[str, Kind]) -> None:
    rows = [row(0, "a", text="alone"), full(1, "a"), row(2, "b", text="b alone"), full(3, "c")]
    assert texts(kinds, rows, 3) == ["text 1", "text 3", "alone"]


def test_values_are_stored_as_they_are(kinds: dict[str, Kind], tmp_path: Path) -> None:
    (tmp_path / "photo.jpeg").write_bytes(JPEG)
    sample = {"audio": WAV, "image": tmp_path / "photo.jpeg", "text": b"caf\xc3\xa9"}
    [example], files = choose_examples(kinds, [row(0, "a", **sample)], 1)
    assert example.label == "a"
    assert example.values == {
        "audio": ("example-0-audio-0.wav",),
        "image": ("example-0-image-0.jpeg",),
        "text": "café",
    }
    assert files == {"example-0-audio-0.wav": WAV, "example-0-image-0.jpeg": JPEG}


@pytest.mark.parametrize(
    "sample",
    [
        {"image": b"broken", "text": "x"},
        {"image": Path("/missing.png"), "text": "x"},
        {"audio": WAV + bytes(MAX_BYTES)},
        {},
    ],
    ids=["broken", "missing", "large", "empty"],
)
def test_unsuitable_row_is_no_example(kinds: dict[str, Kind], sample: dict[str, Any]) -> None:
    rows = [row(0, "a", **sample), full(1, "b")]
    assert texts(kinds, rows, 2) == ["text 1"]


def test_changed_example_is_found_when_a_bundle_is_loaded(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    for examples, message in (
        ([{"label": "a", "values": {"image": ["missing.png"]}}], "no checksum for missing.png"),
        ([{"label": "a", "values": {"smell": "x"}}], "unknown modality smell"),
        ([{"label": "a", "values": {"image": ["../x.png"]}}], "values"),
    ):
        changed = change_manifest(folder, tmp_path / message[:5].strip(), examples=examples)
        with pytest.raises(BundleError, match=message):
            Bundle.load(changed)
