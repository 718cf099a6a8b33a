"""The report on a comparison: compare.json, report.md and report.html.

`python -m train.compare.report OUT` makes it again from the results in OUT; of a compare.json that
was kept without them, it makes the Markdown.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dimml.errors import DimmlError
from dimml.files import write_atomic
from dimml.progress import print_status
from train.compare.figures import figures
from train.compare.page import html, markdown
from train.compare.plan import DOCUMENT, MARKDOWN, PAGE
from train.compare.sections import TITLE, sections, without_ablations
from train.compare.summary import Summary, summarise


def write_report(out: Path) -> Summary:
    """Writes the document, its Markdown and its page beside the results.

    Args:
        out: the folder that holds `results/<method>/seed-<n>.json`.

    Returns:
        The document of compare.json, see `summarise`.

    Raises:
        UsageError: there is no result, or one cannot be read; nothing is written.
    """
    document = summarise(out)
    page = html(TITLE, sections(document), figures(without_ablations(document)))
    write_atomic(out / DOCUMENT, json.dumps(document, indent=2, allow_nan=False) + "\n")
    write_atomic(out / MARKDOWN, report_of(document))
    write_atomic(out / PAGE, page)
    return document


def report_of(document: Summary) -> str:
    """The Markdown of a document of compare.json."""
    return markdown(TITLE, sections(document))


def main(
    out: Annotated[Path, typer.Argument(help="Folder of a comparison, or its compare.json.")],
    results: Annotated[
        Path | None, typer.Option(help="Also write the Markdown here, as docs/results.md.")
    ] = None,
) -> None:
    """Write the report of a comparison again.

    Examples:
        python -m train.compare.report runs/digits/compare --results docs/results.md

        python -m train.compare.report benchmarks/results/compare.json --results docs/results.md
    """
    try:
        document = json.loads(out.read_bytes()) if out.is_file() else write_report(out)
        if results is not None:
            write_atomic(results, report_of(document))
    except (DimmlError, OSError, ValueError) as error:
        print_status(f"error: {error}")
        raise typer.Exit(getattr(error, "exit_code", 1)) from None
    typer.echo(out / PAGE if out.is_dir() else results or report_of(document))


if __name__ == "__main__":
    typer.run(main)
