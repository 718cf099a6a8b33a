from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from dimml.errors import InputError, ManifestError
from dimml.samples import AudioArray
from dimml.table import Row, TableSource, read_rows
from dimml.table.cells import cell_text, label_text, modality_value, split_name

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def value(cell: Any, kind: str = "image") -> Any:
    return modality_value("photo", cell, kind, lambda path: f"located {path}")


def refusal(cell: Any, kind: str = "image") -> str:
    with pytest.raises(InputError) as caught:
        value(cell, kind)
    assert caught.value.field == "photo"
    return caught.value.message


def rows(path: Path, **columns: Any) -> list[Row]:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return list(read_rows(TableSource(path, {"photo": "image", "title": "text"})))


def test_binary_ids_labels_and_paths_that_hold_utf8_are_text(tmp_path: Path) -> None:
    binary = {
        "id": [b"a"],
        "split": [b"train"],
        "label": ["\u00e9t\u00e9".encode()],
        "photo": [b"a.png"],
    }
    [row] = rows(tmp_path / "t.parquet", **binary, title=[b"one"])
    assert row == Row("a", "train", "\u00e9t\u00e9", {"photo": tmp_path / "a.png", "title": b"one"})


@pytest.mark.parametrize("column", ["id", "label", "split"])
def test_binary_that_is_not_utf8_is_an_error_that_names_the_column(
    tmp_path: Path, column: str
) -> None:
    with pytest.raises(ManifestError, match=f"row 1: {column}: the bytes are not UTF-8 text"):
        rows(tmp_path / "t.parquet", **{column: [b"a", b"\xff"]}, title=["one", "two"])


def test_binary_pictures_are_content_rather_than_paths(tmp_path: Path) -> None:
    [row] = rows(tmp_path / "t.parquet", photo=[PNG])
    assert row.sample["photo"] == PNG


@pytest.mark.parametrize(
    ("cell", "problem"),
    [(["cat", "dog"], "got a list"), ({"name": "cat"}, "got an object")],
)
def test_label_that_is_a_list_or_an_object_is_an_error_with_row_and_type(
    tmp_path: Path, cell: Any, problem: str
) -> None:
    with pytest.raises(ManifestError, match=f"row 0: label: .*{problem}"):
        rows(tmp_path / "t.parquet", label=[cell], title=["one"])


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (["one", "two"], "expected text, got a list"),
        ({"en": "one"}, "got an object with en"),
    ],
)
def test_text_that_is_a_list_or_an_object_is_an_error_with_row_and_type(
    tmp_path: Path, cell: Any, problem: str
) -> None:
    with pytest.raises(ManifestError, match=f"row 0: title: .*{problem}"):
        rows(tmp_path / "t.parquet", title=[cell])


def test_object_with_unknown_keys_does_not_become_absent() -> None:
    assert "an object of bytes and path, got an object with url" in refusal({"url": "x"})
    assert value({"url": None, "path": "a.png"}) == "located a.png"


def test_struct_without_bytes_is_the_file_of_its_path() -> None:
    assert value({"bytes": "", "path": "x.png"}) == "located x.png"
    assert value({"bytes": None, "path": "x.png"}) == "located x.png"
    assert value({"bytes": PNG, "path": "x.png"}) == PNG
    assert value({"bytes": b"", "path": None}) is None
    assert value({"bytes": b"one", "path": None}, "text") == b"one"
    assert value({"bytes": None, "path": "one.txt"}, "text") == "located one.txt"


def test_text_in_the_bytes_of_a_struct_is_base64() -> None:
    assert value({"bytes": base64.b64encode(PNG).decode()}) == PNG
    assert "is not base64" in refusal({"bytes": "a.png"})


def test_hugging_face_recordings_keep_their_sample_rate() -> None:
    struct = {"path": None, "array": [0.0, 0.5], "sampling_rate": 8000}
    recording = value(struct, "audio")
    assert isinstance(recording, AudioArray)
    assert (recording.samples.tolist(), recording.rate) == ([0.0, 0.5], 8000)
    stereo = value({"array": [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]], "sampling_rate": 8000}, "audio")
    assert stereo.samples.shape == (3, 2)


@pytest.mark.parametrize(
    ("struct", "kind"),
    [
        ({"array": [0.0], "sampling_rate": 8000}, "image"),
        ({"array": [0.0]}, "audio"),
        ({"array": ["a"], "sampling_rate": 8000}, "audio"),
        ({"array": [0.0], "sampling_rate": "fast"}, "audio"),
    ],
)
def test_array_that_is_no_recording_is_rejected(struct: Any, kind: str) -> None:
    assert "`array`" in refusal(struct, kind)


def test_recordings_of_unequal_content_have_unequal_bytes() -> None:
    one = AudioArray(np.zeros(2, np.float32), 8000)
    assert one.to_bytes() == AudioArray(np.zeros(2, np.float32), 8000).to_bytes()
    assert one.to_bytes() != AudioArray(np.zeros(2, np.float32), 16000).to_bytes()
    assert one.to_bytes() != AudioArray(np.zeros((1, 2), np.float32), 8000).to_bytes()


def test_whole_numbers_in_a_float_column_are_written_as_integers(tmp_path: Path) -> None:
    columns = {"id": [7.0, 8.5], "label": [1.0, None], "title": [3.0, 0.5]}
    first, second = rows(tmp_path / "t.parquet", **columns)
    assert (first.id, first.label, first.sample["title"]) == ("7", "1", "3")
    assert (second.id, second.label, second.sample["title"]) == ("8.5", None, "0.5")
    assert cell_text(math.inf, "id") == "inf"


def test_labels_that_look_alike_are_one_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["cat", "cat ", "caf\u00e9", "cafe\u0301"]
    read = rows(tmp_path / "t.parquet", label=labels, title=list("abcd"))
    assert [row.label for row in read] == ["cat", "cat", "caf\u00e9", "caf\u00e9"]
    assert (
        "labels that lose the blanks around them or are composed (Unicode NFC): 2"
        in capsys.readouterr().err
    )
    assert label_text("  ", "label") is None


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Train", "train"),
        ("training", "train"),
        ("val", "validation"),
        ("VALID", "validation"),
        ("dev", "validation"),
        (" Test ", "test"),
        ("holdout", "holdout"),
    ],
)
def test_usual_names_of_splits_are_accepted(written: str, name: str) -> None:
    assert split_name(written) == name
