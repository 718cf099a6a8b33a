from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SharedFolder
from train.recipe import load_recipe
from train.run import train_run


@pytest.fixture(scope="session")
def notes_run(shared_folder: SharedFolder) -> Path:
    """Train a run on texts that name their label, and return its folder."""

    def write(folder: Path) -> None:
        folder.mkdir()
        lines = [
            f"{split},{label},it is {label}"
            for split in ("train", "validation")
            for label in ("red", "blue") * 12
        ]
        (folder / "data.csv").write_text("\n".join(["split,label,note", *lines]))
        (folder / "recipe.yaml").write_text(
            f"name: notes\ndata: {folder / 'data.csv'}\nfeature_dim: 8\n"
            "modalities: {note: text}\ntraining: {epochs: 4, batch_size: 8}\n"
        )
        train_run(load_recipe(folder / "recipe.yaml"), folder / "run", resume=False)

    return shared_folder("notes", write) / "run"
