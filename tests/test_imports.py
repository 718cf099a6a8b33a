"""Who may import whom (design.md, section 2), read from the source, and what a process loads."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dimml", "train", "export", "serving")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

OURS = {
    "dimml": {"dimml"},
    "train": {"train", "dimml"},
    "export": {"export", "train", "dimml"},
    "serving": {"serving", "dimml"},
}
"""Package to those of ours that it may import."""

CONFINED = {
    "torch": ("dimml/nn/", "train/", "export/"),
    "transformers": ("dimml/nn/", "train/", "export/"),
    "pytorch_lightning": ("dimml/nn/", "train/", "export/"),
    "dimml.nn": ("dimml/nn/", "train/", "export/"),
    "onnxruntime": ("dimml/runtime/", "export/"),
    "onnx": ("dimml/onnx_check.py", "dimml/runtime/", "export/"),
    # A pickle runs code: nothing that is read may be one.
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ()),
}
"""Module to the only places that may import it."""

HEAVY = {"torch", "transformers", "pytorch_lightning", "librosa", "numba"}
COMMAND = re.compile(r"(train|export|serving)(\.\w+)+(:\w+)?")


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or later, `from a import b` as `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def unpickles(call: str) -> bool:
    """Whether a call, as source, may read a pickle."""
    reads_checkpoint = call.startswith("torch.load(") or "ckpt_path=" in call
    return (reads_checkpoint and "weights_only=True" not in call) or "allow_pickle=True" in call


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
class TestSource:
    def test_a_package_imports_only_those_of_ours_below_it(self, path: Path) -> None:
        allowed = OURS[name_of(path).split("/")[0]]
        ours = {module.split(".")[0] for module in imported(path)} & set(PACKAGES)
        assert ours <= allowed

    def test_what_is_heavy_is_imported_only_where_it_belongs(self, path: Path) -> None:
        modules = list(imported(path))
        misplaced = [
            name
            for name, places in CONFINED.items()
            if any(within(module, name) for module in modules)
            and not name_of(path).startswith(places)
        ]
        assert misplaced == []

    def test_nothing_is_unpickled(self, path: Path) -> None:
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        unsafe = [call for call in map(ast.unparse, calls) if unpickles(call)]
        assert unsafe == []


@pytest.mark.parametrize(
    ("call", "unsafe"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("trainer.fit(module, ckpt_path=path)", True),
        ("trainer.fit(module, ckpt_path=path, weights_only=True)", False),
        ("numpy.load(path, allow_pickle=True)", True),
        ("json.load(file)", False),
    ],
)
def test_what_unpickles_is_known_for_it(call: str, unsafe: bool) -> None:
    assert unpickles(call) == unsafe


def test_the_library_names_other_packages_only_in_the_table_of_commands() -> None:
    from dimml.cli import COMMANDS

    found = {
        (name_of(path), node.value)
        for path in FILES
        if name_of(path).startswith("dimml/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and COMMAND.fullmatch(node.value)
    }
    targets = {c.target for c in COMMANDS.values() if not c.target.startswith("dimml.")}
    assert found == {("dimml/cli.py", target) for target in targets}


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process has loaded once it imported the service, predicted and scored."""
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "in.csv").write_text("id,text\na,seven\n")
    code = f"""
import json, sys
import dimml, serving.service
from dimml.cli import main
codes = []
for command in (
    ["predict", {str(tiny_bundle)!r}, "--text", "x", "--providers", "cpu"],
    ["score", {str(tiny_bundle)!r}, "in.csv", "out.parquet", "--providers", "cpu"],
):
    sys.argv = ["dimml", *command]
    try:
        main()
    except SystemExit as stopped:
        codes.append(stopped.code)
print(json.dumps({{"codes": codes, "modules": sorted(sys.modules)}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BENTOML_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (folder / "out.parquet").is_file()
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_serving_predicting_and_scoring_load_nothing_of_training(
    loaded: dict[str, object],
) -> None:
    modules = loaded["modules"]
    assert isinstance(modules, list)
    assert loaded["codes"] == [0, 0]
    # What they did load, so that an empty list is no success.
    assert {"bentoml", "onnxruntime", "serving.service", "serving.offline.cli"} <= set(modules)
    assert {module.split(".")[0] for module in modules} & HEAVY == set()
    assert [module for module in modules if module.split(".")[0] in ("train", "export")] == []
