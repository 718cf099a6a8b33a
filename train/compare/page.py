"""The report as one HTML page that loads nothing else: its Markdown, rendered around figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from train.markdown import escape

_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
_FIGURE = re.compile(rf"<p>{_MARK}(\w+){_MARK}(.*)</p>")
_ILLEGAL_IN_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def load_template(name: str) -> jinja2.Template:
    """Load a template of this folder; text is escaped for HTML in HTML templates only."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(["html.j2"]),
    )
    environment.filters["md"] = escape
    return environment.get_template(name)


def figure_mark(name: str, caption: str) -> str:
    """Return the Markdown paragraph that `write_page` replaces by a figure."""
    return f"{_MARK}{name}{_MARK}{caption}"


def write_page(markdown: str, figures: Mapping[str, str]) -> str:
    """Return the report as one page, which is well-formed XML too.

    Args:
        markdown: The report, with a `figure_mark` for each figure.
        figures: Name to SVG; a mark without its figure is removed.
    """

    def figure(mark: re.Match[str]) -> str:
        if (name := mark[1]) not in figures:
            return ""
        image = figures[name].replace("<svg", f'<svg role="img" aria-label="{name}"', 1)
        return f"<figure>{image}<figcaption>{mark[2]}</figcaption></figure>"

    comment, _, text = markdown.partition("\n")
    # Raw HTML stays text: a name in the data may hold anything.
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    body = _FIGURE.sub(figure, parser.render(text))
    title = text.strip().partition("\n")[0].removeprefix("# ")
    template = load_template("page.html.j2")
    page = template.render(comment=Markup(comment), title=title, body=Markup(body))
    return _ILLEGAL_IN_XML.sub("\N{REPLACEMENT CHARACTER}", page)
