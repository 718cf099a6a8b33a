"""Data sets that `dimml data` writes as files and a manifest.

`DATASETS` maps each name to the module whose `write(out, ...)` writes the data set, or whose
`write(root, out, ...)` does if the name is in `NEEDS_ROOT`. A module is imported only to write its
data set, because it may need packages that are not installed. `OPTIONS` has the names of the data
sets that take another option than `seed`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from dimml.errors import UsageError

DATASETS: dict[str, str] = {
    "digits": "train.datasets.digits",
    "avmnist": "train.datasets.avmnist",
    "crema_d": "train.datasets.crema_d",
    "ave": "train.datasets.ave",
    "ucf101": "train.datasets.ucf101",
    "modelnet40": "train.datasets.modelnet40",
}
# Data sets that are made from published files, which the user downloads into a folder, the root.
NEEDS_ROOT = frozenset(DATASETS) - {"digits"}
OPTIONS = {"split": "ucf101", "split_csv": "crema_d"}


def require(module: str) -> ModuleType:
    """Import a module that is needed only to write a data set.

    Raises:
        UsageError: If the package of the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{module} cannot be imported ({error}), but this data set needs it; "
            "run `pip install -e '.[train,demo]'`"
        ) from error
