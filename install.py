"""Install dimml with some of its extras into the environment of the Python that runs this file.

`make` runs it as `python3 install.py --environment .venv` and then as
`.venv/bin/python install.py --torch auto train serve demo`. Nothing is installed at that point, so
the file needs no package, and runs on Python 3.7 and newer, to refuse old ones. uv installs several
times as fast as pip; pip installs where uv cannot be had or fails.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 14)
"""As `requires-python` in pyproject.toml."""
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))
PYTORCH_INDEX = "https://download.pytorch.org/whl"
"""PyTorch's own packages, in a folder per build: `cpu`, `cu128`, `rocm6.4` and others."""
INDEX_TIMEOUT_SECONDS = 3
CUDA, ANY = "cuda", "any"
"""Builds that need no index of their own."""

UV_VARIABLES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}
"""The options of pip's configuration that decide where packages come from, as uv knows them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Create an environment, or install extras, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", help="extras of pyproject.toml")
    parser.add_argument(
        "--environment", type=Path, help="create this virtual environment and install nothing"
    )
    parser.add_argument(
        "--torch",
        default="auto",
        help="build of PyTorch: cpu; cuda, the one of the package index; another one of "
        f"{PYTORCH_INDEX}, such as cu128; auto (default) is cuda if nvidia-smi works, else cpu",
    )
    options = parser.parse_args(arguments)
    try:
        check_python(sys.version_info)
        if options.environment:
            return create_environment(options.environment)
        build = choose_build(options.torch)
    except ValueError as error:
        parser.error(str(error))
    return install(options.extras, build)


def check_python(version: Sequence[object]) -> None:
    """Raise a ValueError if dimml does not run on this version of Python.

    Args:
        version: The parts of the version, as in `sys.version_info`.
    """
    if not OLDEST_PYTHON <= tuple(version[:2]) <= NEWEST_PYTHON:
        raise ValueError(
            "{} is Python {}.{}, and dimml needs {}.{} to {}.{}: name another one, as in "
            "`make serve PYTHON=python3.13`".format(
                sys.executable, *version[:2], *OLDEST_PYTHON, *NEWEST_PYTHON
            )
        )


def create_environment(folder: Path) -> int:
    """Create a virtual environment of the Python that runs this file, and return the exit status.

    An environment of the same version is kept.

    Raises:
        ValueError: If the environment exists with another version of Python.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    if not (folder / "pyvenv.cfg").is_file():
        return run(sys.executable, "-m", "venv", str(folder))
    # The folder of a free-threaded Python ends in "t".
    if any(folder.glob(f"lib/python{version}*")):
        return 0
    raise ValueError(
        f"{folder} is an environment of another Python than {version}: run `make clean` to remove "
        "it, and then the same command again"
    )


def choose_build(wanted: str) -> str:
    """Return the build of PyTorch to install, and print it in one line with the reason.

    Args:
        wanted: `auto`, `cpu`, `cuda` or a folder of `PYTORCH_INDEX`.

    Returns:
        A folder of `PYTORCH_INDEX`; `CUDA`; or `ANY`, the build that pip's own sources have.

    Raises:
        ValueError: If the index does not have the folder, or does not answer.
    """
    if wanted in ("auto", "cpu") and platform.system() != "Linux":
        say("PyTorch: from the package index, whose build for this system is the only one")
        return ANY
    if wanted == CUDA:
        say("PyTorch: the CUDA build of the package index")
        return CUDA
    if wanted == "auto" and succeeds("nvidia-smi"):
        say("PyTorch: the CUDA build, because nvidia-smi works (TORCH=cpu takes the CPU build)")
        return CUDA
    build = "cpu" if wanted == "auto" else wanted
    url = f"{PYTORCH_INDEX}/{build}"
    if answers(f"{url}/torch/"):
        say(f"PyTorch: the build {build} of {PYTORCH_INDEX}")
        return build
    if build == "cpu":
        say(f"PyTorch: any build that pip's own sources have, because {url} does not answer")
        return ANY
    raise ValueError(
        f"the build {build!r} of PyTorch cannot be had: {url} does not answer; accepted are auto, "
        "cpu, cuda and the folders there, such as TORCH=cu128"
    )


def install(extras: Sequence[str], build: str) -> int:
    """Install dimml as an editable package with extras, by uv or else by pip.

    Args:
        extras: Names of extras.
        build: The build of PyTorch, see `choose_build`.

    Returns:
        The exit status.
    """
    has_index = build not in (CUDA, ANY)
    package = ("--editable", f"{ROOT}[{','.join(extras)}]")
    pip = (sys.executable, "-m", "pip")
    if is_other_build(build) and run(*pip, "uninstall", "--yes", "torch"):
        return 1
    if run(*pip, "install", *CONSTRAINTS, "uv"):
        say("uv cannot be installed, so pip installs everything")
    else:
        configured = subprocess.run((*pip, "config", "list"), capture_output=True, text=True)
        uv = (sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable)
        backend = ("--torch-backend", build) if has_index else ()
        environment = {**uv_variables(configured.stdout), **os.environ}
        if not run(*uv, *CONSTRAINTS, *backend, *package, environment=environment):
            return 0
        say("uv failed (see above), so pip installs everything")
    index = ("--extra-index-url", f"{PYTORCH_INDEX}/{build}") if has_index else ()
    return run(*pip, "install", *CONSTRAINTS, *index, *package)


def uv_variables(configuration: str) -> dict[str, str]:
    """Return pip's package sources as environment variables of uv, which reads no file of pip.

    Args:
        configuration: The output of `pip config list`.
    """
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in configuration.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in sections and option in UV_VARIABLES:
            sections[section][option] = str(ast.literal_eval(value))
    # Later sections take precedence in pip.
    options = {key: value for section in sections.values() for key, value in section.items()}
    variables = {UV_VARIABLES[option]: value for option, value in options.items()}
    if "UV_INDEX" in variables:
        variables["UV_INDEX"] = " ".join(variables["UV_INDEX"].split())
        # As pip does, take the newest version over all indexes.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if "UV_FIND_LINKS" in variables:
        variables["UV_FIND_LINKS"] = ",".join(variables["UV_FIND_LINKS"].split())
    return variables


def is_other_build(build: str) -> bool:
    """Return whether PyTorch is installed in another build, whose number fits all the same.

    A build of PyTorch's index has its name in the version, such as 2.13.0+cpu.
    """
    try:
        installed = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return False
    return build != ANY and installed != ("" if build == CUDA else build)


def answers(url: str) -> bool:
    """Return whether a URL answers within `INDEX_TIMEOUT_SECONDS`."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=INDEX_TIMEOUT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def succeeds(command: str) -> bool:
    """Return whether a command exists and exits with 0."""
    try:
        return subprocess.run([command], capture_output=True).returncode == 0
    except OSError:
        return False


def run(*command: str, environment: Mapping[str, str] | None = None) -> int:
    """Show a command, run it with its progress shown, and return its exit status."""
    say(f"$ {shlex.join(command)}")
    return subprocess.run(command, env=environment).returncode


def say(text: str) -> None:
    """Print a line at once, so that it comes before the output of a command."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
