"""The one list of reserved names holds what the other modules use."""

from __future__ import annotations

from pathlib import Path

import pytest

from dimml.bundle import CLASSIFIER, EVALUATION, MANIFEST
from dimml.cli import build
from dimml.names import RESERVED, SCORE_SUFFIXES, why_reserved
from serving.offline.scorer import score_schema

ALL = {name for names in RESERVED.values() for name in names}


def test_the_options_of_predict_are_reserved() -> None:
    options = {
        option.lstrip("-").replace("-", "_")
        for parameter in build("predict").params
        for option in parameter.opts
    }
    assert {"bundle", "json", "providers"} < options <= ALL


def test_the_columns_of_scores_are_reserved() -> None:
    columns = set(score_schema(["photo"], ("a", "b")).names)
    of_photo = {f"photo_{suffix}" for suffix in SCORE_SUFFIXES}
    assert of_photo < columns
    assert columns - of_photo <= ALL


def test_the_files_of_a_bundle_are_reserved() -> None:
    files = {Path(name).stem for name in (CLASSIFIER, EVALUATION, MANIFEST, "README.md")}
    assert {name.lower() for name in files} <= ALL


@pytest.mark.parametrize("name", ["id", "classifier", "on_unreadable", "com1", "photo_present"])
def test_a_reserved_name_says_what_has_it(name: str) -> None:
    said = why_reserved(name, ["photo", name])
    assert said
    assert "reserved: " in said
    assert name in said.partition(": ")[2]


@pytest.mark.parametrize("name", ["photo", "title", "label_text", "note_label", "encoder"])
def test_other_names_are_free(name: str) -> None:
    assert why_reserved(name, ["photo", name]) is None
