"""The figures of a report, as SVG that takes its ink colour from the page around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from train.report.drawing import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    STYLE,
    TICK_CHARACTERS,
    Document,
    draw_line,
    legible,
    make_panels,
    svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE_STYLES = ("-", "--", ":")
PANEL_COLUMNS = 4
MEASURE_LABELS = {"weight": "its weight (%)", "accuracy": "accuracy (%)"}


def draw_figures(document: Document) -> dict[str, str]:
    """Return name to SVG for every figure that has numbers; equal documents give equal bytes.

    Args:
        document: Of a comparison, see `train.compare.summary.summarise`, or of one bundle in the
            same form, see `train.report.evaluation.report_document`.
    """
    import matplotlib as mpl

    makers = {
        "missing": missing_curves,
        "subsets": subset_bars,
        "reliability": reliability_diagrams,
        "weights": corruption_curves,
        "confusion": confusion_matrix,
    }
    with mpl.rc_context(STYLE):
        drawn = {name: make(document) for name, make in makers.items()}
        return {name: svg(figure, name) for name, figure in drawn.items() if figure is not None}


def missing_curves(document: Document) -> Figure | None:
    """Draw accuracy against the rate of missing modalities, with a band of one deviation."""
    rates, methods = document["rates"], document["methods"]
    curves = {n: [m["missing"][rate]["accuracy"] for rate in rates] for n, m in methods.items()}
    curves = {n: c for n, c in curves.items() if any(one["mean"] is not None for one in c)}
    if not curves or len(rates) < 2:
        return None
    figure, (axis,) = make_panels(1, 1, (8.5, 4.6) if len(curves) > 1 else (6, 3.6))
    places = [100 * float(rate) for rate in rates]
    for name in reversed(curves):
        style = _line_style(name, document)
        draw_line(axis, places, curves[name], style, name)
    axis.set(xlabel="modalities missing at random (%)", ylabel="test accuracy (%)")
    if len(curves) > 1:
        handles, labels = axis.get_legend_handles_labels()
        axis.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5))
    else:
        axis.set_ylim(0, 102)
    return figure


def subset_bars(document: Document) -> Figure | None:
    """Draw the accuracy by subset and its deviation: a panel per subset, or one for one method."""
    methods, subsets = document["methods"], document["subsets"]
    accuracies = {s: [m["subsets"][s]["accuracy"] for m in methods.values()] for s in subsets}
    if len(methods) == 1:
        shown = document.get("shown") or {name: name for name in subsets}
        return _one_panel_of_bars({title: accuracies[name][0] for title, name in shown.items()})
    columns = min(PANEL_COLUMNS, len(subsets))
    rows = -(-len(subsets) // columns)
    size = (11, rows * (1.1 + 0.22 * len(methods)))
    figure, axes = make_panels(rows, columns, size, sharey=True)
    colours = [INK if name == document["reference"] else GREY for name in methods]
    for axis, subset in zip(axes, subsets, strict=False):
        _bars(axis, accuracies[subset], colours)
        axis.set(title=legible(subset))
    axes[0].set_yticks(range(len(methods)), [legible(name) for name in methods])
    axes[0].invert_yaxis()
    for axis in axes[len(subsets) :]:
        axis.set_visible(False)
    return figure


def _one_panel_of_bars(accuracies: Mapping[str, Document]) -> Figure | None:
    shown = list(accuracies)
    figure, (axis,) = make_panels(1, 1, (6, 0.9 + 0.26 * len(shown)))
    _bars(axis, list(accuracies.values()), COLOURS[0])
    axis.set_yticks(range(len(shown)), [legible(name, 2 * TICK_CHARACTERS) for name in shown])
    axis.invert_yaxis()
    return figure


def _bars(axis: Axes, accuracies: Sequence[Document], colours: str | Sequence[str]) -> None:
    widths = [100 * (one["mean"] or 0) for one in accuracies]
    errors = [100 * (one["std"] or 0) for one in accuracies]
    axis.barh(range(len(widths)), widths, xerr=errors, color=colours, ecolor=COLOURS[1])
    for place, (width, error) in enumerate(zip(widths, errors, strict=True)):
        axis.text(width + error + 2, place, f"{width:.1f}", va="center", fontsize=8)
    axis.set(xlim=(0, 118), xticks=(0, 25, 50, 75, 100), xlabel="test accuracy (%)")


def reliability_diagrams(document: Document) -> Figure | None:
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
    # A page about one method is read on phones, too.
    columns = len(subsets) if len(shown) > 1 else min(2, len(subsets))
    rows = -(-len(panels) // columns)
    size = (2.75 * columns, 2.8 * rows + 0.3)
    figure, axes = make_panels(rows, columns, size, sharex=True, sharey=True)
    for number, (axis, (name, subset)) in enumerate(zip(axes, panels, strict=False)):
        _reliability(axis, methods[name]["reliability"][subset])
        title = legible(subset) if len(shown) == 1 else f"{legible(name)}\n{legible(subset)}"
        axis.set(xlim=(0, 102), ylim=(0, 102), title=title)
        axis.set(xlabel="confidence (%)", ylabel="accuracy (%)")
        axis.label_outer()
        if number + columns >= len(panels):
            # Nothing is drawn below, though there may be an empty place.
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("confidence (%)")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    return figure


def corruption_curves(document: Document) -> Figure | None:
    """Draw the weight of the corrupted modality against the level: a row per weighting method.

    For one method, a second row has the accuracy.
    """
    methods = document["methods"]
    panels = [(name, "weight") for name, method in methods.items() if _weights(method)]
    if len(methods) == 1:
        panels += [(name, "accuracy") for name in methods if methods[name]["corruption"]]
    modalities = list(dict.fromkeys(m for name, _ in panels for m in methods[name]["corruption"]))
    if not modalities:
        return None
    columns = min(PANEL_COLUMNS, len(modalities))
    width = 3.1 if len(methods) > 1 else max(1.8, 5.4 / columns)
    parts = [modalities[start : start + columns] for start in range(0, len(modalities), columns)]
    rows = len(panels) * len(parts)
    size = (width * columns + 0.6, 2.3 * rows + 0.4)
    figure, axes = make_panels(rows, columns, size, sharey=True)
    cells = [
        (*panel, modality)
        for part in parts
        for panel in panels
        for modality in (*part, *[None] * (columns - len(part)))
    ]
    for axis, (name, measure, modality) in zip(axes, cells, strict=True):
        if modality is None:
            axis.set_visible(False)
            continue
        kinds = methods[name]["corruption"].get(modality, {})
        for number, (kind, levels) in enumerate(kinds.items()):
            figures = [level[measure] for level in levels.values()]
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % 7]}
            draw_line(axis, [float(level) for level in levels], figures, style, kind)
        title = f"{legible(modality)} corrupted"
        axis.set(title=f"{legible(name)}: {title}" if len(methods) > 1 else title)
        axis.set(xlabel="corruption level", ylabel=MEASURE_LABELS[measure], ylim=(0, 102))
        if len(parts) == 1:
            axis.label_outer()
        elif not axis.get_subplotspec().is_first_col():
            axis.set_ylabel("")
        axis.set_xticks(sorted({float(level) for levels in kinds.values() for level in levels}))
        if axis.lines:
            axis.legend(fontsize=8)
    return figure


def _weights(method: Document) -> bool:
    """Return whether a method weights its modalities."""
    return any(
        level["weight"]["mean"] is not None
        for kinds in method["corruption"].values()
        for levels in kinds.values()
        for level in levels.values()
    )


def confusion_matrix(document: Document) -> Figure | None:
    """Draw how often each label is predicted for each true label, as shares of the true label."""
    confusion = (document.get("model") or {}).get("confusion")
    if not confusion:
        return None
    from matplotlib.patches import Rectangle

    counts = confusion["counts"]
    labels = [legible(label, TICK_CHARACTERS) for label in confusion["labels"]]
    side = min(6.0, 1.6 + 0.42 * len(labels))
    figure, (axis,) = make_panels(1, 1, (side, side))
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if not count:
                continue
            share = count / sum(line)
            colour = COLOURS[0] if row == column else COLOURS[1]
            corner = (column - 0.5, row - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, color=colour, alpha=0.1 + 0.7 * share, lw=0))
            axis.text(column, row, str(count), ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
    axis.set_xticks(range(len(labels)), labels, rotation=90)
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlabel="answer", ylabel="true label")
    axis.grid(visible=False)
    return figure


def _reliability(axis: Axes, table: Document) -> None:
    columns = (table["confidence"], table["accuracy"], table["count"])
    bins = [entry for entry in zip(*columns, strict=True) if entry[2]]
    axis.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    if bins:
        confidence, accuracy = ([100 * entry[place] for entry in bins] for place in (0, 1))
        total = sum(entry[2] for entry in bins)
        areas = [12 + 250 * entry[2] / total for entry in bins]
        axis.plot(confidence, accuracy, color=COLOURS[0], linewidth=1)
        axis.scatter(confidence, accuracy, areas, color=COLOURS[0], alpha=0.75, linewidth=0)


def _line_style(name: str, document: Document) -> dict[str, Any]:
    if name == document["reference"]:
        return {"color": INK, "linewidth": 2.5, "marker": "o"}
    number = list(document["methods"]).index(name)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINE_STYLES[(number // len(COLOURS)) % len(LINE_STYLES)],
        "linewidth": 1.4,
    }
