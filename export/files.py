"""The files that make up a bundle, for commands that copy or upload it."""

from __future__ import annotations

from pathlib import Path

from dimml.bundle import EVALUATION, MANIFEST, Bundle
from dimml.errors import BundleError

REPORTS = (EVALUATION, "README.md")
"""The reports on a bundle. `report.html` shows rows of the table, and so is not one of them."""


def bundle_files(bundle: Bundle) -> list[Path]:
    """Return the files of a bundle: those that its manifest lists, the manifest, and its reports.

    Other files of the folder are not part of the bundle.

    Raises:
        BundleError: If one of them is a link. The manifest has no checksum of the reports, so a
            link in their place could name any file of this machine.
    """
    paths = [bundle.path / name for name in (*bundle.manifest.files, MANIFEST, *REPORTS)]
    for path in paths:
        if path.is_symlink():
            raise BundleError(f"{path} is a link; replace it by a copy of the file")
    return [path for path in paths if path.is_file()]
