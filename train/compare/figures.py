"""Figures of a comparison, as SVG that takes its ink colour from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from train.compare.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for `currentColor`, which matplotlib does not know."""
# Of Okabe and Ito's palette: black is the page's ink here, and yellow too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", ":")
QUIET = "#8a8a8a"
PANEL_COLUMNS = 4
STYLE = {
    "svg.hashsalt": "dimml",
    # Text stays text: it can be read aloud and searched, and the file is small.
    "svg.fonttype": "none",
    # A name with a dollar sign is not a formula.
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), INK),
    "axes.titlesize": 10,
    "legend.frameon": False,
    "grid.color": QUIET,
    "grid.alpha": 0.3,
}


def figures(document: Summary) -> dict[str, str]:
    """Name to SVG of every figure for which there are numbers.

    The same document gives the same bytes.
    """
    import matplotlib as mpl

    makers: dict[str, Callable[[Summary], Figure | None]] = {
        "missing": missing_curves,
        "subsets": subset_bars,
        "reliability": reliability_diagrams,
        "weights": weight_curves,
    }
    found = {}
    with mpl.rc_context(STYLE):
        for name, make in makers.items():
            if (figure := make(document)) is not None:
                found[name] = svg(figure, name)
    return found


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to put into a page.

    Args:
        figure: drawn.
        name: put before every id, since ids of several figures meet in one page.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").strip()


def missing_curves(document: Summary) -> Figure | None:
    """Accuracy against the rate of missing modalities, with a band of a standard deviation."""
    rates = document["rates"]
    curves = {
        name: [method["missing"][rate]["accuracy"] for rate in rates]
        for name, method in document["methods"].items()
    }
    curves = {n: c for n, c in curves.items() if any(s["mean"] is not None for s in c)}
    if not curves or len(rates) < 2:
        return None
    figure, axes = _panels(1, 1, (8.5, 4.6))
    axis = axes[0]
    order = list(document["methods"])
    places = [100 * float(rate) for rate in rates]
    for name in reversed(curves):
        _line(axis, places, curves[name], _look(order.index(name), name, document), _label(name))
    axis.set(xlabel="modalities missing at random (%)", ylabel="test accuracy (%)")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def subset_bars(document: Summary) -> Figure | None:
    """A panel per subset, a bar per method: accuracy with a standard deviation."""
    names = list(document["methods"])
    rows = -(-len(document["subsets"]) // PANEL_COLUMNS)
    height = rows * (0.9 + 0.22 * len(names))
    columns = min(PANEL_COLUMNS, len(document["subsets"]))
    figure, axes = _panels(rows, columns, (11, height), sharex=True, sharey=True)
    for axis, subset in zip(axes, document["subsets"], strict=False):
        found = [document["methods"][name]["subsets"][subset]["accuracy"] for name in names]
        widths = [100 * (spread["mean"] or 0) for spread in found]
        errors = [100 * (spread["std"] or 0) for spread in found]
        colours = [INK if name == document["reference"] else QUIET for name in names]
        axis.barh(range(len(names)), widths, xerr=errors, color=colours, ecolor=COLOURS[1])
        for place, (width, error) in enumerate(zip(widths, errors, strict=True)):
            axis.text(width + error + 2, place, f"{width:.1f}", va="center", fontsize=8)
        axis.set(title=_label(subset), xlim=(0, 118), xticks=(0, 25, 50, 75, 100))
        axis.set_yticks(range(len(names)), [_label(name) for name in names])
    axes[0].invert_yaxis()
    for axis in axes[-columns:]:
        axis.set_xlabel("test accuracy (%)")
    _hide_rest(axes, len(document["subsets"]), columns)
    return figure


def reliability_diagrams(document: Summary) -> Figure | None:
    """Accuracy against confidence on full input and each modality, `dimml` and the best other."""
    shown = [n for n in (document["reference"], best_other(document)) if n in document["methods"]]
    wanted = dict.fromkeys([document["full"], *document["singles"]])
    subsets = [subset for subset in wanted if subset in document["subsets"]]
    panels = [(name, subset) for name in shown for subset in subsets]
    tables = [document["methods"][name]["reliability"][subset] for name, subset in panels]
    if not any(sum(table["count"]) for table in tables):
        return None
    size = (2.75 * len(subsets), 2.8 * len(shown) + 0.3)
    figure, axes = _panels(len(shown), len(subsets), size, sharex=True, sharey=True)
    for place, (axis, (name, subset), table) in enumerate(zip(axes, panels, tables, strict=True)):
        _reliability(axis, table)
        axis.set(xlim=(0, 102), ylim=(0, 102), title=f"{_label(name)}\n{_label(subset)}")
        if place % len(subsets) == 0:
            axis.set_ylabel("accuracy (%)")
        if place >= len(panels) - len(subsets):
            axis.set_xlabel("confidence (%)")
    return figure


def weight_curves(document: Summary) -> Figure | None:
    """Weight of the corrupted modality against the level: a row per method, a line per kind."""
    methods = document["methods"]
    shown = [name for name in methods if _has_weights(methods[name])]
    names = list(dict.fromkeys(m for name in shown for m in methods[name]["corruption"]))
    if not shown:
        return None
    size = (3.1 * len(names) + 0.6, 2.3 * len(shown) + 0.4)
    figure, axes = _panels(len(shown), len(names), size, sharey=True)
    for place, axis in enumerate(axes):
        row, column = divmod(place, len(names))
        kinds = methods[shown[row]]["corruption"].get(names[column], {})
        for number, (kind, levels) in enumerate(kinds.items()):
            spreads = [levels[level]["weight"] for level in levels]
            look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % 7]}
            _line(axis, [float(level) for level in levels], spreads, look, _label(kind))
        axis.set(title=f"{_label(shown[row])}: {_label(names[column])} corrupted", ylim=(0, 102))
        axis.set_xticks(sorted({float(level) for levels in kinds.values() for level in levels}))
        if axis.lines:
            axis.legend(fontsize=8)
        if column == 0:
            axis.set_ylabel("its weight (%)")
        if row == len(shown) - 1:
            axis.set_xlabel("corruption level")
    return figure


def best_other(document: Summary) -> str | None:
    """The method other than `dimml` with the best mean over subsets."""
    # The methods are in that order already.
    return next((name for name in document["methods"] if name != document["reference"]), None)


def _panels(rows: int, columns: int, size: tuple[float, float], **shared: bool) -> Any:
    """A figure outside of pyplot, which would keep it, and its axes row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    axes = figure.subplots(rows, columns, squeeze=False, **shared).flatten()
    for axis in axes:
        axis.grid(True)
        axis.set_axisbelow(True)
    return figure, axes


def _line(
    axis: Axes, places: Sequence[float], spreads: Sequence[Summary], look: Summary, label: str
) -> None:
    """Means in per cent as a line, in a band of a standard deviation to each side."""
    found = [(x, s) for x, s in zip(places, spreads, strict=True) if s["mean"] is not None]
    if not found:
        return
    x = [place for place, _ in found]
    y = [100 * spread["mean"] for _, spread in found]
    deviation = [100 * (spread["std"] or 0.0) for _, spread in found]
    axis.plot(x, y, label=label, markersize=5, **look)
    low, high = ([m + s * d for m, d in zip(y, deviation, strict=True)] for s in (-1, 1))
    axis.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _reliability(axis: Axes, table: Summary) -> None:
    columns = (table["confidence"], table["accuracy"], table["count"])
    bins = [entry for entry in zip(*columns, strict=True) if entry[2]]
    axis.plot([0, 100], [0, 100], color=QUIET, linestyle="--", linewidth=1)
    if bins:
        confidence, accuracy = ([100 * entry[place] for entry in bins] for place in (0, 1))
        total = sum(entry[2] for entry in bins)
        areas = [12 + 250 * entry[2] / total for entry in bins]
        axis.plot(confidence, accuracy, color=COLOURS[0], linewidth=1)
        axis.scatter(confidence, accuracy, areas, color=COLOURS[0], alpha=0.75, linewidth=0)


def _hide_rest(axes: Sequence[Axes], used: int, columns: int) -> None:
    """Empties the last row's free places; the panels above them get its ticks and label."""
    for place in range(used, len(axes)):
        axes[place].set_visible(False)
        if place >= columns:
            axes[place - columns].tick_params(labelbottom=True)
            axes[place - columns].set_xlabel("test accuracy (%)")


def _look(number: int, name: str, document: Summary) -> Summary:
    if name == document["reference"]:
        return {"color": INK, "linewidth": 2.5, "marker": "o"}
    style = LINES[(number // len(COLOURS)) % len(LINES)]
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": style,
        "linewidth": 1.4,
    }


def _has_weights(method: Summary) -> bool:
    kinds = [kind for kinds in method["corruption"].values() for kind in kinds.values()]
    return any(one["weight"]["mean"] is not None for kind in kinds for one in kind.values())


def _label(name: str) -> str:
    """The name as a label: matplotlib would leave one that begins with "_" out of the legend."""
    return f"\u200b{name}" if name.startswith("_") else name
