from __future__ import annotations

from train.markdown import Bold, bullets, table
from train.report.page import figure_mark, write_page

COMMENT = "<!-- made by a test -->\n\n# Title\n\n"


def test_page_shows_tables_and_lists() -> None:
    rows = [("x", "1"), ("y", Bold("2"))]
    page = write_page(COMMENT + table(("a", "b"), rows) + "\n\n" + bullets(["one", "two"]), {})
    assert '<td style="text-align:right"><strong>2</strong></td>' in page
    assert "<li>one</li>\n<li>two</li>" in page
    assert "<title>Title</title>" in page


def test_page_holds_the_figures_that_were_drawn() -> None:
    marks = "\n\n".join(figure_mark(name, f"About {name}.") for name in ("drawn", "missing"))
    page = write_page(COMMENT + marks, {"drawn": "<svg></svg>"})
    assert '<figure><svg role="img" aria-label="drawn"></svg>' in page
    assert "<figcaption>About drawn.</figcaption>" in page
    assert "missing" not in page


def test_page_shows_markup_as_text() -> None:
    page = write_page(COMMENT + "<script>alert(1)</script> \x1b", {})
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "\x1b" not in page
