"""A manifest that was edited so that it no longer fits its graphs is refused at load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimml import Predictor
from dimml.errors import BundleError

CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a label less": lambda manifest: manifest["labels"].pop(),
    "a label more": lambda manifest: manifest["labels"].append("four"),
    "wider features": lambda manifest: manifest.update(feature_dim=17),
    "larger pictures": lambda manifest: manifest["modalities"]["image"]["preprocessing"].update(
        size=[64, 64]
    ),
    "grey pictures": lambda manifest: manifest["modalities"]["image"]["preprocessing"].update(
        channels=1
    ),
    "shorter recordings": lambda manifest: manifest["modalities"]["audio"]["preprocessing"].update(
        seconds=0.5
    ),
    "a modality less": lambda manifest: manifest["modalities"].pop("text"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_refused(
    tiny_bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"export the bundle again|conformal"):
        Predictor.load(path, "cpu")


def test_any_length_of_what_the_graph_leaves_free_fits(any_length_bundle: Path) -> None:
    assert Predictor.load(any_length_bundle, "cpu").predict({"text": "seven"}).label
