"""The command-line options that several benchmarks share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dimml.machine import SOURCE_ROOT

DIGITS = SOURCE_ROOT / "runs" / "digits"
"""The folder in which `make serve` creates `data`, `run` and `bundle`."""


def benchmark_parser(documentation: str | None, *folders: str) -> argparse.ArgumentParser:
    """Return a parser with an option for each folder of the digits example.

    Args:
        documentation: Docstring of the benchmark, shown by `--help`.
        folders: Some of `bundle`, `data` and `run`.
    """
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
        description=documentation,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in folders:
        default = DIGITS / name
        parser.add_argument(
            f"--{name}", type=absolute_path, default=default, help="default: %(default)s"
        )
    return parser


def absolute_path(text: str) -> Path:
    """Return an absolute path, because servers and jobs may run in another folder."""
    return Path(text).absolute()
