"""What a process of dimml sets before it loads other libraries or packages of this project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dimml.errors import UsageError
from dimml.machine import SOURCE_ROOT

NO_REPORTS = {
    "BENTOML_DO_NOT_TRACK": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Without this, onnxruntime stores a device id below `~/.cache` and sends events from a thread.
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
}
"""The variables that stop libraries from reporting their use to their makers."""

PASSIVE_WAITS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    # The runtime of Intel and LLVM waits actively for this many milliseconds.
    "KMP_BLOCKTIME": "0",
}
"""The variables that make threads of OpenMP sleep while they wait for each other.

By default they wait actively. Two trainings on the same cores then hold up each other's threads,
and neither finishes an epoch.
"""

SOURCE_PACKAGES = ("train", "export", "serving")
"""The packages beside `dimml`, whose names a user's own files may also have."""


def set_library_variables() -> None:
    """Stop libraries from reporting their use and from waiting actively.

    The libraries read the variables when they load. Child processes inherit them. What the user has
    set is kept.
    """
    for name, value in {**NO_REPORTS, **PASSIVE_WAITS}.items():
        # The libraries treat an empty variable as unset.
        if not os.environ.get(name):
            os.environ[name] = value


def import_from_source() -> None:
    """Import `train`, `export` and `serving` from the folder that holds `dimml` from now on.

    Only a command does this: a program that imports `dimml` may have a `train.py` of its own.
    `multiprocessing` hands `sys.path` to the processes that it starts, and the variable reaches the
    workers of a service.

    Raises:
        UsageError: If another file was imported under one of the names before.
    """
    for name in SOURCE_PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and Path(file).resolve().parent != SOURCE_ROOT / name:
            raise UsageError(
                f"{file} is imported as {name!r} and hides dimml's package of that name; rename "
                "the file, or run `dimml` as a process of its own"
            )
    root = str(SOURCE_ROOT)
    # An installed wheel lacks these packages, and its folder must stay behind the standard library.
    if sys.path[0] != root and (SOURCE_ROOT / "train").is_dir():
        sys.path.insert(0, root)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([root, inherited] if inherited else [root])
