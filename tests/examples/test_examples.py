"""Each example runs as its README says."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dimml.machine import SOURCE_ROOT
from tests.conftest import PretrainedFolder

EXAMPLES = SOURCE_ROOT / "examples"
slow = pytest.mark.slow("the example trains")


def run_example(name: str, out: Path, **variables: object) -> str:
    """Run the script of an example and return its standard output."""
    done = subprocess.run(
        ["sh", str(EXAMPLES / name / "run.sh")],
        env={
            **os.environ,
            **{variable: str(value) for variable, value in variables.items()},
            "PYTHON": sys.executable,
            "PYTHONPATH": str(SOURCE_ROOT),
            "DIMML_PROVIDERS": "cpu",
            "OUT": str(out),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluated_subsets(bundle: Path) -> dict[str, dict[str, float]]:
    return dict(json.loads((bundle / "evaluation.json").read_text())["subsets"])


def test_table_lists_every_example() -> None:
    listed = re.findall(
        r"^\| \[[\w-]+\]\(([\w-]+)/README\.md\)", (EXAMPLES / "README.md").read_text(), re.M
    )
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir()]
    assert sorted(listed) == sorted(folders)


def test_storage_example_scores_every_row_of_a_table_in_a_storage(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    run_example("storage", tmp_path, BUNDLE=tiny_bundle)
    # The rows can only come from the storage.
    shutil.rmtree(tmp_path / "data")
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(number) for number in range(240)]
    assert {row["audio_present"] for row in rows} == {"true"}
    assert {row["error_code"] for row in rows} == {""}
    assert [row["truth"] for row in rows[:4]] == ["low", "high", "rising", "burst"]
    job = json.loads((tmp_path / "scores.csv.success.json").read_text())
    assert "file://" in json.dumps(job)


@slow
def test_sounds_example_recognises_the_recording(tmp_path: Path) -> None:
    output = run_example("sounds", tmp_path)
    assert output.splitlines()[-2].startswith("rising  ")
    assert evaluated_subsets(tmp_path / "bundle")["audio"]["accuracy"] > 0.9


@slow
def test_products_example_answers_for_picture_and_title(
    tmp_path: Path, pretrained_folder: PretrainedFolder
) -> None:
    output = run_example(
        "products",
        tmp_path,
        PHOTO_MODEL=pretrained_folder("image", "clip"),
        TITLE_MODEL=pretrained_folder("text", "bert"),
    )
    # Models in miniature with random weights learn little, so the labels are not checked.
    answer = r"^(?:mug|lamp|ball|box)  .+\n(?:  .+\n)+"
    both, photo_alone, title_alone = re.findall(answer, output, re.M)
    assert "without photo: " in both
    assert "title: absent" in photo_alone
    assert "photo: absent" in title_alone
    assert set(evaluated_subsets(tmp_path / "bundle")) == {"photo", "title", "photo+title"}
