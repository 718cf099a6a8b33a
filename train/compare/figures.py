"""The figures of a comparison, as SVG that takes its ink colour from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from train.compare.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
GREY = "#8a8a8a"
# From Okabe and Ito's palette, without black (the page's ink) and yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
LINE_STYLES = ("-", "--", ":")
PANEL_COLUMNS = 4
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


def draw_figures(document: Summary) -> dict[str, str]:
    """Return name to SVG for every figure that has numbers; equal documents give equal bytes."""
    import matplotlib as mpl

    makers = {
        "missing": missing_curves,
        "subsets": subset_bars,
        "reliability": reliability_diagrams,
        "weights": weight_curves,
    }
    with mpl.rc_context(STYLE):
        drawn = {name: make(document) for name, make in makers.items()}
        return {name: _svg(figure, name) for name, figure in drawn.items() if figure is not None}


def missing_curves(document: Summary) -> Figure | None:
    """Draw accuracy against the rate of missing modalities, with a band of one deviation."""
    rates, methods = document["rates"], document["methods"]
    curves = {n: [m["missing"][rate]["accuracy"] for rate in rates] for n, m in methods.items()}
    curves = {n: c for n, c in curves.items() if any(one["mean"] is not None for one in c)}
    if not curves or len(rates) < 2:
        return None
    figure, (axis,) = _panels(1, 1, (8.5, 4.6))
    places = [100 * float(rate) for rate in rates]
    for name in reversed(curves):
        style = _line_style(name, document)
        _line(axis, places, curves[name], style, name)
    axis.set(xlabel="modalities missing at random (%)", ylabel="test accuracy (%)")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def subset_bars(document: Summary) -> Figure | None:
    """Draw a panel per subset with a bar per method: accuracy and its deviation."""
    methods, subsets = document["methods"], document["subsets"]
    columns = min(PANEL_COLUMNS, len(subsets))
    rows = -(-len(subsets) // columns)
    size = (11, rows * (1.1 + 0.22 * len(methods)))
    figure, axes = _panels(rows, columns, size, sharey=True)
    colours = [INK if name == document["reference"] else GREY for name in methods]
    for axis, subset in zip(axes, subsets, strict=False):
        accuracies = [method["subsets"][subset]["accuracy"] for method in methods.values()]
        widths = [100 * (one["mean"] or 0) for one in accuracies]
        errors = [100 * (one["std"] or 0) for one in accuracies]
        axis.barh(range(len(methods)), widths, xerr=errors, color=colours, ecolor=COLOURS[1])
        for place, (width, error) in enumerate(zip(widths, errors, strict=True)):
            axis.text(width + error + 2, place, f"{width:.1f}", va="center", fontsize=8)
        axis.set(title=_label(subset), xlim=(0, 118), xticks=(0, 25, 50, 75, 100))
        axis.set_xlabel("test accuracy (%)")
    axes[0].set_yticks(range(len(methods)), [_label(name) for name in methods])
    axes[0].invert_yaxis()
    for axis in axes[len(subsets) :]:
        axis.set_visible(False)
    return figure


def reliability_diagrams(document: Summary) -> Figure | None:
    """Draw accuracy against confidence on full input and each modality: `dimml`, the best other."""
    methods = document["methods"]
    others = [name for name in methods if name != document["reference"]]
    # The document sorts the other methods by their mean over subsets.
    shown = [name for name in (document["reference"], *others[:1]) if name in methods]
    wanted = dict.fromkeys([document["full"], *document["singles"]])
    subsets = [subset for subset in wanted if subset in document["subsets"]]
    panels = [(name, subset) for name in shown for subset in subsets]
    if not any(sum(methods[name]["reliability"][subset]["count"]) for name, subset in panels):
        return None
    size = (2.75 * len(subsets), 2.8 * len(shown) + 0.3)
    figure, axes = _panels(len(shown), len(subsets), size, sharex=True, sharey=True)
    for axis, (name, subset) in zip(axes, panels, strict=True):
        _reliability(axis, methods[name]["reliability"][subset])
        axis.set(xlim=(0, 102), ylim=(0, 102), title=f"{_label(name)}\n{_label(subset)}")
        axis.set(xlabel="confidence (%)", ylabel="accuracy (%)")
        axis.label_outer()
    return figure


def weight_curves(document: Summary) -> Figure | None:
    """Draw the weight of the corrupted modality against the level: a row per weighting method."""
    weighting = {
        name: method["corruption"]
        for name, method in document["methods"].items()
        if any(
            level["weight"]["mean"] is not None
            for kinds in method["corruption"].values()
            for levels in kinds.values()
            for level in levels.values()
        )
    }
    if not weighting:
        return None
    modalities = list(dict.fromkeys(m for corruption in weighting.values() for m in corruption))
    size = (3.1 * len(modalities) + 0.6, 2.3 * len(weighting) + 0.4)
    figure, axes = _panels(len(weighting), len(modalities), size, sharey=True)
    panels = [(name, modality) for name in weighting for modality in modalities]
    for axis, (name, modality) in zip(axes, panels, strict=True):
        kinds = weighting[name].get(modality, {})
        for number, (kind, levels) in enumerate(kinds.items()):
            weights = [level["weight"] for level in levels.values()]
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % 7]}
            _line(axis, [float(level) for level in levels], weights, style, kind)
        axis.set(title=f"{_label(name)}: {_label(modality)} corrupted", ylim=(0, 102))
        axis.set(xlabel="corruption level", ylabel="its weight (%)")
        axis.label_outer()
        axis.set_xticks(sorted({float(level) for levels in kinds.values() for level in levels}))
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element; its ids begin with `name`, to be unique in a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").strip()


def _panels(
    rows: int, columns: int, size: tuple[float, float], **shared: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes, row by row."""
    # Figures of pyplot would stay in memory until they are closed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", h_pad=0.1)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared).flatten()


def _line(
    axis: Axes, places: Sequence[float], figures: Sequence[Summary], style: Summary, name: str
) -> None:
    """Draw means in per cent as a line, in a band of one standard deviation."""
    points = [(x, one) for x, one in zip(places, figures, strict=True) if one["mean"] is not None]
    if points:
        x = [place for place, _ in points]
        y = [100 * one["mean"] for _, one in points]
        low, high = (
            [100 * (one["mean"] + s * (one["std"] or 0.0)) for _, one in points] for s in (-1, 1)
        )
        axis.plot(x, y, label=_label(name), markersize=5, **style)
        axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _reliability(axis: Axes, table: Summary) -> None:
    columns = (table["confidence"], table["accuracy"], table["count"])
    bins = [entry for entry in zip(*columns, strict=True) if entry[2]]
    axis.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    if bins:
        confidence, accuracy = ([100 * entry[place] for entry in bins] for place in (0, 1))
        total = sum(entry[2] for entry in bins)
        areas = [12 + 250 * entry[2] / total for entry in bins]
        axis.plot(confidence, accuracy, color=COLOURS[0], linewidth=1)
        axis.scatter(confidence, accuracy, areas, color=COLOURS[0], alpha=0.75, linewidth=0)


def _line_style(name: str, document: Summary) -> Summary:
    if name == document["reference"]:
        return {"color": INK, "linewidth": 2.5, "marker": "o"}
    number = list(document["methods"]).index(name)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINE_STYLES[(number // len(COLOURS)) % len(LINE_STYLES)],
        "linewidth": 1.4,
    }


def _label(name: str) -> str:
    # matplotlib leaves a label that begins with "_" out of the legend.
    return f"\u200b{name}" if name.startswith("_") else name
