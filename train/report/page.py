"""A report as one HTML page that loads nothing else: its Markdown, rendered around figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from train.markdown import escape, table

FOLDER = Path(__file__).parent
READABLE = 0.62
"""The smallest scale of a figure; on a narrower screen, it scrolls."""
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
_FIGURE = re.compile(rf"<p>{_MARK}(\w+){_MARK}(.*)</p>")
_ILLEGAL_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def load_template(path: Path) -> jinja2.Template:
    """Load a template, which may include those of this folder.

    Text is escaped for HTML in HTML templates only.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, FOLDER]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(["html.j2"]),
    )
    environment.filters["md"] = escape
    return environment.get_template(path.name)


def figure_mark(name: str, caption: str) -> str:
    """Return the Markdown paragraph that `write_page` replaces by a figure."""
    return f"{_MARK}{name}{_MARK}{caption}"


def confused_pairs(confusion: Mapping[str, Any]) -> str:
    """Return the most frequent errors, see `count_confusions`, as a table."""
    rows = [[one["label"], one["predicted"], str(one["count"])] for one in confusion["pairs"]]
    return table(("true label", "answer", "samples"), rows, numbers=False)


def write_examples(examples: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return errors with their inputs, see `show_errors`, as HTML for `write_page`."""
    template = load_template(FOLDER / "examples.html.j2")
    return {"examples": template.render(examples=examples)} if examples else {}


def write_page(markdown: str, figures: Mapping[str, str]) -> str:
    """Return the report as one page, which is well-formed XML too.

    Args:
        markdown: The report, with a `figure_mark` for each figure.
        figures: Name to SVG or other HTML; a mark without its figure is removed.
    """

    def figure(mark: re.Match[str]) -> str:
        if (name := mark[1]) not in figures:
            return ""
        if not (image := figures[name]).startswith("<svg"):
            return image
        width = re.match(r'<svg[^>]* width="([\d.]+)pt"', image)
        least = f' style="min-width: {READABLE * float(width[1]):.0f}pt"' if width else ""
        image = image.replace("<svg", f'<svg role="img" aria-label="{name}"{least}', 1)
        return f"<figure>{image}<figcaption>{mark[2]}</figcaption></figure>"

    comment, _, text = markdown.partition("\n")
    # Raw HTML stays text: a name in the data may hold anything.
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    body = _FIGURE.sub(figure, parser.render(text))
    title = text.strip().partition("\n")[0].removeprefix("# ")
    template = load_template(FOLDER / "page.html.j2")
    page = template.render(comment=Markup(comment), title=title, body=Markup(body))
    return _ILLEGAL_IN_XML.sub("\N{REPLACEMENT CHARACTER}", page)
