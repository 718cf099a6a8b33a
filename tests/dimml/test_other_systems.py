"""The library on systems that lack modules and functions of POSIX, as Windows does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dimml.machine import SOURCE_ROOT

LIBRARY = sorted(
    ".".join(path.relative_to(SOURCE_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (SOURCE_ROOT / "dimml").rglob("*.py")
    if path.name != "__main__.py" and "nn" not in path.parts
)
"""The modules of the library, without those that need PyTorch."""

SCRIPT = """
import importlib, importlib.abc, json, os, signal, sys

class PosixModules(importlib.abc.MetaPathFinder):
    NAMES = {"fcntl", "grp", "pwd", "resource", "syslog", "termios", "tty", "uvloop"}

    def find_spec(self, name, path=None, target=None):
        if name in self.NAMES:
            refused.add(name)
            raise ModuleNotFoundError(f"this system has no {name}", name=name)

refused = set()
for name in PosixModules.NAMES:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, PosixModules())
for name in ("fork", "getuid", "geteuid", "killpg", "sched_getaffinity", "setsid", "sysconf"):
    delattr(os, name)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGUSR1"):
    delattr(signal, name)

bundle, *modules = sys.argv[1:]
for name in modules:
    importlib.import_module(name)
assert sys.modules["dimml.machine"].available_cores() > 0
prediction = sys.modules["dimml"].Predictor.load(bundle).predict({"text": "seven"})
try:
    import fcntl
except ModuleNotFoundError:
    print(json.dumps({"label": prediction.label, "refused": sorted(refused)}))
"""


def test_library_imports_and_predicts_without_posix(tiny_bundle: Path) -> None:
    from dimml import Predictor

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_bundle), *LIBRARY],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["label"] == Predictor.load(tiny_bundle).predict({"text": "seven"}).label
    # filelock asks for it, and does without.
    assert "fcntl" in report["refused"]
