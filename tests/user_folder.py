"""A folder and a home of a user, in which tests run Python and see what it imports and writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dimml.machine import SOURCE_ROOT

USER_FILES = ("train", "export", "serving", "tests")
"""Names of Python files of a user; the first three are also packages of dimml."""


class UserFolder:
    """A folder with files named like packages of dimml, and an empty home.

    Attributes:
        path: The folder.
        home: The home.
        trace: Prefix of the files with the connections of each process.
        variables: The environment of commands, without any variable of these tests.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.home, self.trace = path / "work", path / "home", path / "trace"
        self.path.mkdir()
        self.home.mkdir()
        for name in USER_FILES:
            marker = path / f"imported-{name}"
            code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
            (self.path / f"{name}.py").write_text(code)
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            # The user's folder comes before the checkout.
            "PYTHONPATH": os.pathsep.join([".", str(self.path), str(SOURCE_ROOT)]),
        }

    def command(self, *arguments: object) -> list[str]:
        """Return a command line of Python, traced if strace is installed."""
        words = [sys.executable, *map(str, arguments)]
        if shutil.which("strace"):
            options = ["-ff", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
            words = ["strace", *options, "-o", str(self.trace), *words]
        return words

    def run(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the folder."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def imported_files(self) -> list[str]:
        """Return the names of the user's files that were imported."""
        return sorted(path.name for path in self.path.parent.glob("imported-*"))

    def files_at_home(self) -> list[str]:
        """Return the files that were written into the home, but for the fonts of matplotlib."""
        files = [path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file()]
        return sorted(str(file) for file in files if "matplotlib" not in file.parts)

    def remote_connections(self) -> list[str]:
        """Return the look-ups, and the connections to other machines, of all traced processes."""
        traces = list(self.trace.parent.glob("trace.*"))
        assert traces, "nothing was traced"
        lines = [line for path in traces for line in path.read_text().splitlines()]
        internet = [line for line in lines if "AF_INET" in line]
        local = re.compile(r'"(127\.|::1"|::ffff:127\.|0\.0\.0\.0"|::")')
        return [x for x in internet if not local.search(x) or "htons(53)" in x]
