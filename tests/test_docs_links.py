"""The links and commands of the documentation point to files that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import dimml

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("", "docs/", "benchmarks/results/", "examples/", "examples/*/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
COMMANDS = [*PAGES, ROOT / "Makefile", *sorted((ROOT / "benchmarks").rglob("*.py"))]


def relative_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative_name)
def test_link_of_a_page_has_a_target(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target), f"{link} names no heading of its page"


@pytest.mark.parametrize("page", COMMANDS, ids=relative_name)
def test_module_of_a_documented_command_exists(page: Path) -> None:
    for name in re.findall(
        r"-m ((?:benchmarks|dimml|export|serving|train)[\w.]*)", page.read_text()
    ):
        module = ROOT.joinpath(*name.rstrip(".").split("."))
        assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=relative_name)
def test_source_file_named_on_a_page_exists(page: Path) -> None:
    pattern = r"`((?:benchmarks|dimml|docs|examples|export|serving|tests|train)/[\w./]+\.\w+)`"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), f"{name} does not exist"


def test_index_names_every_page_of_the_documentation() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    files = {path.name for path in (ROOT / "docs").iterdir() if path.is_file()} - {"README.md"}
    assert files == set(re.findall(r"\]\((\w+\.\w+)\)", index))
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


def test_citation_agrees_with_the_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == dimml.__version__
    assert (citation["title"], citation["license"]) == (project["name"], project["license"])
    (paper,) = citation["references"]
    method = (ROOT / "docs" / "method.md").read_text()
    assert paper["url"] in method
    assert paper["title"] in " ".join(method.split())
    assert {author["family-names"] for author in paper["authors"]} <= set(
        re.findall(r"\w+", method)
    )
