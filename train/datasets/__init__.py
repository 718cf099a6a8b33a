"""Data sets that can be written as a manifest.

`DATASETS` names, for each data set, the module whose `write(out, ...)` writes it. Modules are
imported only when asked for, so listing the names needs none of their packages.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from dimml.errors import UsageError

DATASETS: dict[str, str] = {"digits": "train.datasets.digits"}


def require(module: str) -> ModuleType:
    """Imports a module that only writing a data set needs.

    Raises:
        UsageError: its package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} cannot be imported ({error}); writing this data set needs it. "
            "Run: pip install -e '.[train]'"
        ) from error
