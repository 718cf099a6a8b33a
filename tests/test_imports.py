"""Which folder may import which, whether imports form a circle, and what a process loads."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("dimml", "train", "export", "serving")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

ALLOWED_IMPORTS = {
    "dimml": {"dimml"},
    "train": {"train", "dimml"},
    "export": {"export", "train", "dimml"},
    "serving": {"serving", "dimml"},
}
"""For each top-level folder, the top-level folders of this project that its files may import."""

FORBIDDEN_INSIDE = (
    # The library runs without training code, and arrays do not know about samples.
    ("dimml/modalities/", "dimml.runtime"),
    ("dimml/nn/", "dimml.runtime"),
    ("dimml/runtime/", "dimml.predictor"),
    # A service and the `score` command do not need each other.
    ("serving/http/", "serving.offline"),
    ("serving/offline/", "serving.http"),
    ("serving/offline/", "serving.service"),
    # The HTTP layer does not know which service it carries.
    ("serving/http/", "serving.service"),
    # Training does not know that methods are compared; data sets know nothing of training.
    ("train/data/", "train.compare"),
    ("train/methods/", "train.compare"),
    *(("train/datasets/", f"train.{name}") for name in ("data", "methods", "compare", "recipe")),
)
"""No file under the path imports the module or a module inside it."""

CONFINED = {
    "torch": ("dimml/nn/", "train/", "export/"),
    "transformers": ("dimml/nn/", "train/", "export/"),
    "pytorch_lightning": ("dimml/nn/", "train/", "export/"),
    "dimml.nn": ("dimml/nn/", "train/", "export/"),
    "onnxruntime": ("dimml/runtime/", "export/"),
    "onnx": ("dimml/onnx_check.py", "export/"),
    # Gradio takes seconds to import, and only the page needs it.
    **dict.fromkeys(("gradio", "fastapi"), ("serving/page/",)),
    "train.compare": ("train/compare/", "train/cli.py"),
    "train.report": ("train/report/", "train/compare/", "train/cli.py"),
    # A pickle runs code, so the product reads none.
    **dict.fromkeys(("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"), ()),
}
"""For each module, the only places that may import it."""

HEAVY = {"torch", "transformers", "pytorch_lightning", "librosa", "numba"}
COMMAND = re.compile(r"(train|export|serving)(\.\w+)+(:\w+)?")


def imported_modules(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, anywhere: `from a import b` as `a` and `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def may_read_pickle(call: str) -> bool:
    """Return whether a call, given as source, may read a pickle."""
    reads_checkpoint = call.startswith("torch.load(") or "ckpt_path=" in call
    return (reads_checkpoint and "weights_only=True" not in call) or "allow_pickle=True" in call


def relative_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return relative_name(path)[:-3].replace("/", ".").removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Return the modules of this project that each module names in its imports.

    An import inside a function or under `TYPE_CHECKING` counts: it ties the files together all the
    same. A package is not tied to the modules inside it by the mere import of one of them.
    """
    modules = {module_name(path): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        targets = [module for module in imported_modules(path) if module in modules]
        # `from train.methods import METHODS` names the package, `from train.methods.base import X`
        # the module alone.
        specific = {t for t in targets if not any(o.startswith(f"{t}.") for o in targets)}
        graph[name] = specific - {name}
    return graph


def find_circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules along one circle of imports, the first one again at the end."""
    finished: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(graph[module]):
            if circle := visit(target, [*trail, module]):
                return circle
        finished.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), [])


@pytest.mark.parametrize("path", FILES, ids=relative_name)
class TestSource:
    def test_top_level_folder_imports_only_allowed_folders(self, path: Path) -> None:
        allowed = ALLOWED_IMPORTS[relative_name(path).split("/")[0]]
        imported = {module.split(".")[0] for module in imported_modules(path)} & set(PACKAGES)
        assert imported <= allowed

    def test_inner_folder_does_not_import_its_neighbour(self, path: Path) -> None:
        modules = list(imported_modules(path))
        forbidden = [
            target
            for place, target in FORBIDDEN_INSIDE
            if relative_name(path).startswith(place)
            and any(is_within(module, target) for module in modules)
        ]
        assert forbidden == []

    def test_confined_module_is_imported_only_where_allowed(self, path: Path) -> None:
        modules = list(imported_modules(path))
        misplaced = [
            name
            for name, places in CONFINED.items()
            if any(is_within(module, name) for module in modules)
            and not relative_name(path).startswith(places)
        ]
        assert misplaced == []

    def test_source_reads_no_pickle(self, path: Path) -> None:
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        unsafe = [call for call in map(ast.unparse, calls) if may_read_pickle(call)]
        assert unsafe == []


def test_imports_form_no_circle() -> None:
    circle = find_circle(import_graph())
    assert circle == [], " -> ".join(circle)


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
)
def test_import_circle_is_found(graph: dict[str, set[str]], circle: list[str]) -> None:
    assert find_circle(graph) == circle


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
def test_call_that_reads_a_pickle_is_recognised(call: str, unsafe: bool) -> None:
    assert may_read_pickle(call) == unsafe


def test_library_names_other_packages_only_in_the_command_table() -> None:
    from dimml.cli import COMMANDS

    named = {
        (relative_name(path), node.value)
        for path in FILES
        if relative_name(path).startswith("dimml/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and COMMAND.fullmatch(node.value)
    }
    targets = {c.target for c in COMMANDS.values() if not c.target.startswith("dimml.")}
    assert named == {("dimml/cli.py", target) for target in targets}


@pytest.fixture(scope="module")
def loaded(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The modules and exit codes of a process that imported the service, predicted and scored."""
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "in.csv").write_text("id,text\na,seven\n")
    code = f"""
import importlib.util, json, sys
import dimml, serving.service
from dimml.cli import main
codes = []
for command in (
    ["predict", {str(tiny_bundle)!r}, "--text", "x"],
    ["score", {str(tiny_bundle)!r}, "in.csv", "out.parquet", "--workers", "1"],
):
    sys.argv = ["dimml", *command, "--providers", "cpu"]
    try:
        main()
    except SystemExit as stopped:
        codes.append(stopped.code)
modules = sorted(sys.modules)
if importlib.util.find_spec("gradio"):
    import serving.page.app
print(json.dumps({{"codes": codes, "modules": modules, "with_page": sorted(sys.modules)}}))
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


def test_serving_predicting_and_scoring_load_no_training_code(
    loaded: dict[str, object],
) -> None:
    modules = loaded["modules"]
    assert isinstance(modules, list)
    assert loaded["codes"] == [0, 0]
    # These must be loaded, so that an empty list does not pass.
    assert {"bentoml", "onnxruntime", "serving.service", "serving.offline.cli"} <= set(modules)
    assert {module.split(".")[0] for module in modules} & HEAVY == set()
    assert [module for module in modules if module.split(".")[0] in ("train", "export")] == []


def test_page_loads_no_training_code_and_gradio_loads_only_for_it(
    loaded: dict[str, object],
) -> None:
    modules, with_page = loaded["modules"], loaded["with_page"]
    assert isinstance(modules, list)
    assert isinstance(with_page, list)
    assert "gradio" not in modules
    assert {module.split(".")[0] for module in with_page} & HEAVY == set()
