"""`dimml package`: build a bento, which holds the service and a bundle for `bentoml serve`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dimml.bundle import Bundle
from dimml.errors import DimmlError, UsageError
from dimml.machine import SOURCE_ROOT
from export.files import bundle_files

BENTOFILE = "bentofile.yaml"
PACKED_BUNDLE = "runs/digits/bundle"
"""The folder in which the service looks for its bundle; `bentofile.yaml` includes it."""

_TAG_PREFIX = "__tag__:"


def build_bento(bundle: Path) -> str:
    """Build a bento around a bundle, without network access.

    Args:
        bundle: Folder of the bundle.

    Returns:
        The tag "dimml:<version>" of the bento in the store that BENTOML_HOME names.

    Raises:
        BundleError: If the folder is not a valid bundle, or a file of it is a link.
        UsageError: If bentoml is not installed.
        DimmlError: If bentoml cannot build the bento.
    """
    loaded = Bundle.load(bundle)
    if importlib.util.find_spec("bentoml") is None:
        raise UsageError("bentoml is not installed; run `pip install -e '.[serve]'`")
    with tempfile.TemporaryDirectory(prefix="dimml-package-") as folder:
        _copy_sources(Path(folder))
        _copy_bundle(loaded, Path(folder) / PACKED_BUNDLE)
        return _build(Path(folder))


def package(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
) -> None:
    """Build a bento: the service and a bundle in one folder, ready for `bentoml serve`.

    Prints the tag of the bento.

    Examples:
        dimml package runs/digits/bundle

        bentoml serve dimml:latest
    """
    typer.echo(build_bento(bundle))


def _copy_sources(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("dimml", "serving"):
        shutil.copytree(SOURCE_ROOT / name, folder / name, ignore=ignore)
    shutil.copy(SOURCE_ROOT / BENTOFILE, folder)


def _copy_bundle(bundle: Bundle, target: Path) -> None:
    target.mkdir(parents=True)
    for path in bundle_files(bundle):
        shutil.copy(path, target)


def _build(folder: Path) -> str:
    # In a process of its own, because the build imports the service from a temporary folder.
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIMML_")}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    tags = [line for line in result.stdout.splitlines() if line.startswith(_TAG_PREFIX)]
    if result.returncode or not tags:
        message = result.stderr.strip() or result.stdout.strip()
        raise DimmlError(f"bentoml could not build the bento: {message}")
    return tags[-1].removeprefix(_TAG_PREFIX)
