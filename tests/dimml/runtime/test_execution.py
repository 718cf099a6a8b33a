"""The predictor rejects a manifest that does not match its graphs."""

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
    "missing label": lambda manifest: manifest["labels"].pop(),
    "additional label": lambda manifest: manifest["labels"].append("four"),
    "wider features": lambda manifest: manifest.update(feature_dim=17),
    "larger images": lambda manifest: manifest["modalities"]["image"]["preprocessing"].update(
        size=[64, 64]
    ),
    "grey images": lambda manifest: manifest["modalities"]["image"]["preprocessing"].update(
        channels=1
    ),
    "shorter recordings": lambda manifest: manifest["modalities"]["audio"]["preprocessing"].update(
        seconds=0.5
    ),
    "missing modality": lambda manifest: manifest["modalities"].pop("text"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_manifest_that_does_not_match_its_graphs_is_rejected(
    tiny_bundle: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, path)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"export the bundle again|conformal"):
        Predictor.load(path, "cpu")


def test_free_axis_of_a_graph_matches_any_length(any_length_bundle: Path) -> None:
    assert Predictor.load(any_length_bundle, "cpu").predict({"text": "seven"}).label
