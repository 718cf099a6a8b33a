"""Data sets that `dimml data` writes as files and a manifest.

`DATASETS` names the module whose `write(out, ...)` writes a data set. A module is imported when its
data set is written, so listing the names needs no package of any data set.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from dimml.errors import UsageError

DATASETS: dict[str, str] = {"digits": "train.datasets.digits"}


def require(module: str) -> ModuleType:
    """Import a module that only the writing of a data set needs.

    Raises:
        UsageError: If its package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} cannot be imported ({error}); writing this data set needs it. "
            "Run: pip install -e '.[train]'"
        ) from error
