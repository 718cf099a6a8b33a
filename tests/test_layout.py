"""The size of files and functions, and names that mean one thing."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("dimml", "train", "export", "serving", "benchmarks")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def defined_types(path: Path) -> list[str]:
    """The classes and the annotated type aliases that a file defines at its top level."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign) and "TypeAlias" in ast.unparse(node.annotation):
            names.append(ast.unparse(node.target))
    return names


@pytest.mark.parametrize("path", python_files(*FOLDERS, "tests"), ids=relative_name)
class TestFile:
    def test_file_is_short(self, path: Path) -> None:
        assert len(path.read_text().splitlines()) <= MAX_FILE_LINES

    def test_functions_are_short(self, path: Path) -> None:
        long = {
            node.name: lines
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
        }
        assert long == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_type_name_has_one_meaning_in_a_folder(folder: str) -> None:
    # A leading underscore marks a name of one file, which no other file can mistake for its own.
    counts = Counter(
        name
        for path in python_files(folder)
        for name in defined_types(path)
        if not name.startswith("_")
    )
    assert [name for name, count in counts.items() if count > 1] == []


def test_library_declares_its_types() -> None:
    assert (ROOT / "dimml" / "py.typed").is_file()
