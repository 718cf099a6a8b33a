"""Make the page of `dimml evaluate` again from its `report.json`, without the bundle and the data.

Run `python -m train.report BUNDLE`, or name the JSON file itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dimml.cli import exit_on_error
from train.report.evaluation import DOCUMENT, read_document, write_report


def main(
    path: Annotated[Path, typer.Argument(help="A report.json, or the folder that holds it.")],
) -> None:
    """Write report.html beside a report.json.

    Examples:
        python -m train.report runs/digits/bundle
    """
    document = path / DOCUMENT if path.is_dir() else path
    typer.echo(write_report(document.parent, read_document(document)))


if __name__ == "__main__":
    exit_on_error(lambda: typer.run(main))
