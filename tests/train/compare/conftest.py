from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.train.compare.things import HEADER, recipe_of, row
from train.compare.runner import ComparisonPlan, compare_runs


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and the comparison of two methods by one seed."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "data.csv").write_text(HEADER + "".join(map(row, range(160))))
    plan = ComparisonPlan(("dimml", "ume"), (0,), 1)
    compare_runs(recipe_of(folder / "data.csv"), plan, folder / "compare", overwrite=False)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "things")
    return tmp_path / "things"
