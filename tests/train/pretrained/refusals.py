"""Reading a pretrained model for the modality `input`, and checking that it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dimml.errors import RecipeError
from train.pretrained import PretrainedModel, read_model
from train.recipe import ModalityConfig

CopyFolder = Callable[[str, str], Path]


def read(source: Path | str, kind: str, **settings: Any) -> PretrainedModel:
    modality = {"kind": kind, "encoder": {"pretrained": str(source)}, **settings}
    return read_model("input", ModalityConfig.model_validate(modality))


def assert_refused(source: Path | str, kind: str, text: str, **settings: Any) -> None:
    """Check that reading or loading a model fails with a message that contains a text."""
    with pytest.raises(RecipeError) as caught:
        read(source, kind, **settings).load()
    assert caught.value.message.startswith("modalities.input: ")
    assert text in caught.value.message


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file; `a__b` is the key b inside the mapping a."""
    document = json.loads(path.read_text())
    for key, value in changes.items():
        target = document
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(document))
