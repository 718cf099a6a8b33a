"""What the figures of a report share: their style, panels, lines and labels."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
GREY = "#8a8a8a"
# From Okabe and Ito's palette, without black (the page's ink) and yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
TICK_CHARACTERS = 18
Document = Mapping[str, Any]

STYLE: Any = {
    "svg.hashsalt": "dimml",
    # Text stays text, so that it can be searched and read aloud.
    "svg.fonttype": "none",
    # A dollar sign in a name does not begin a formula.
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
    "axes.titlesize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "grid.color": GREY,
    "grid.alpha": 0.3,
}


def svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element; its ids begin with `name`, to be unique in a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").strip()


def make_panels(
    rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes, row by row."""
    # Figures of pyplot would stay in memory until they are closed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", h_pad=0.1)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared).flatten()


def draw_line(
    axis: Axes, places: Sequence[float], figures: Sequence[Document], style: Document, name: str
) -> None:
    """Draw means in per cent as a line, in a band of one standard deviation."""
    points = [(x, one) for x, one in zip(places, figures, strict=True) if one["mean"] is not None]
    if points:
        x = [place for place, _ in points]
        y = [100 * one["mean"] for _, one in points]
        low, high = (
            [100 * (one["mean"] + s * (one["std"] or 0.0)) for _, one in points] for s in (-1, 1)
        )
        axis.plot(x, y, label=legible(name), markersize=5, **style)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def legible(name: str, characters: int = 60) -> str:
    """Return a name as a label: in one line, cut to a number of characters."""
    name = " ".join(name.split())
    if len(name) > characters:
        name = name[: characters - 1] + "\N{HORIZONTAL ELLIPSIS}"
    # matplotlib leaves a label that begins with "_" out of the legend.
    return f"\u200b{name}" if name.startswith("_") else name
