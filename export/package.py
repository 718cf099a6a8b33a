"""`dimml package`: a bento, which holds the service and a bundle for `bentoml serve`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dimml.errors import BundleError, DimmlError, UsageError
from dimml.machine import SOURCE_ROOT

if TYPE_CHECKING:
    from dimml.bundle import Bundle

BENTOFILE = "bentofile.yaml"
PACKED_BUNDLE = "runs/digits/bundle"
"""The folder that `bentofile.yaml` includes and in which the service looks for its bundle."""

_TAG_MARK = "__tag__:"


def build_bento(bundle: Path) -> str:
    """Build a bento around a bundle, without network access.

    Args:
        bundle: Folder of the bundle.

    Returns:
        The bento's tag, "dimml:<version>", in the store that BENTOML_HOME names.

    Raises:
        BundleError: If the folder is not a valid bundle.
        UsageError: If bentoml is not installed.
        DimmlError: If bentoml cannot build the bento.
    """
    from dimml.bundle import Bundle

    loaded = Bundle.load(bundle)
    if importlib.util.find_spec("bentoml") is None:
        raise UsageError("bentoml is not installed; `pip install -e '.[serve]'`")
    with tempfile.TemporaryDirectory(prefix="dimml-package-") as folder:
        _copy_sources(Path(folder))
        _copy_bundle(loaded, Path(folder) / PACKED_BUNDLE)
        return _build(Path(folder))


def package(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
) -> None:
    """Build a bento: the service and a bundle in one folder, ready for `bentoml serve`.

    Prints its tag.

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
    from dimml.bundle import EVALUATION, MANIFEST

    target.mkdir(parents=True)
    for name in (*bundle.manifest.files, MANIFEST, EVALUATION, "README.md"):
        source = bundle.path / name
        # The reports have no checksum, so a link in their place could pack any file.
        if source.is_symlink():
            raise BundleError(f"{source} is a link, and a bundle holds files: replace it by a copy")
        if source.is_file():
            shutil.copy(source, target / name)


def _build(folder: Path) -> str:
    # Building imports the service from a folder that is then deleted, hence the separate process.
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(folder)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIMML_")}
    environment["BENTOML_DO_NOT_TRACK"] = "true"
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    tags = [line for line in done.stdout.splitlines() if line.startswith(_TAG_MARK)]
    if done.returncode or not tags:
        raise DimmlError(f"bentoml could not build: {done.stderr.strip() or done.stdout.strip()}")
    return tags[-1].removeprefix(_TAG_MARK)
