from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import PretrainedFolder
from tests.train.pretrained.refusals import CopyFolder


@pytest.fixture
def copy(pretrained_folder: PretrainedFolder, tmp_path: Path) -> CopyFolder:
    """Return a function that copies a model's folder, so that a test may change it."""

    def copied(kind: str, model_type: str) -> Path:
        return shutil.copytree(pretrained_folder(kind, model_type), tmp_path / model_type)

    return copied
